"""That the comparison with HiMTok's reference vectors reads each of them: a set of their form, made by this code."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from methods.base import UserError
from methods.himtok import parity
from methods.himtok.hierarchy import HierarchyConfig, hierarchical_loss, released_label
from methods.himtok.mask_tokenizer import MaskTokenizer, MaskTokenizerConfig
from methods.himtok.model import fill_codes

NAMES = ["a", "b", "c", "d", "multi_region", "ring_with_hole", "g", "h"]
SIZE = {"enc": [64, 1, 4], "dec": [64, 1, 4], "z_channels": 32, "hidden_channels": 8, "channel_mult": [1, 1, 1, 1, 1],
        "num_res_blocks": 1}  # fmt: skip
START, END, FIRST, LENGTH = 80, 81, 10, 48


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """Their folder."""
    folder = tmp_path_factory.mktemp("himtok")
    torch.manual_seed(0)
    tokenizer = MaskTokenizer(MaskTokenizerConfig(
        resolution=64, patch=16, width=64, encoder_layers=1, decoder_layers=1, heads=4, codes=64, ffn_out=32,
        pixel_base=8, pixel_multipliers=(1, 1, 1, 1, 1), pixel_blocks=1, encoder_layout="official",
        code_space="official",
    )).eval()  # fmt: skip
    for p in tokenizer.parameters():
        p.data += 0.1 * torch.randn_like(p)
    with torch.no_grad():
        files, facts = reference(tokenizer)
    for name, tensors in files.items():
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
    (folder / "golden.json").write_text(json.dumps(facts))
    cases = [{"size": [640, 480], "grid": [1, 1]}, {"size": [480, 640], "grid": [1, 1]}]
    arithmetic = {"dynamic_tiles": {"1": {"candidate_order": [[1, 1]], "cases": cases}}}
    (folder / "eval_arithmetic.json").write_text(json.dumps(arithmetic))
    return folder


def reference(tokenizer):
    """(file -> tensors, golden.json)"""
    masks = torch.stack([(torch.arange(64 * 64) % (i + 2) == 0).view(64, 64) for i in range(8)])
    z = tokenizer.latents(masks[:, None].float())
    unit, ids, loss = tokenizer.quantize(z)
    table = tokenizer.quantize.table()
    soft, config = torch.randn(2, 32, 64), HierarchyConfig("official", dice=0.25)
    calls: dict[str, torch.Tensor] = {}
    parts = {"patch_embed": tokenizer.encoder.patch_embed, "dec_ffn": tokenizer.decoder.ffn}
    hooks = [part.register_forward_hook(lambda *c, n=name: calls.update({n: c[-1]})) for name, part in parts.items()]
    tokenizer.latents(masks[:, None].float())
    drawn = tokenizer.logits(tokenizer.mix(F.one_hot(ids[4:5, :16], 64).float()))
    for hook in hooks:
        hook.remove()
    logits = torch.randn(3, LENGTH, 100)
    labels = torch.full((3, LENGTH), -100)
    labels[::2, 5] = START
    with torch.enable_grad():
        free = logits.clone().requires_grad_()
        probabilities = (free[::2, 6:38, FIRST : FIRST + 64] / parity.TEMPERATURE).softmax(-1)
        losses = hierarchical_loss(tokenizer, probabilities, masks[:3:2].float(), config, torch.tensor([9, 27]))
        whole = torch.autograd.grad(sum(losses.values()), free, retain_graph=True)[0]
        alone = torch.autograd.grad(losses["mask"], free)[0]
    given = torch.full((3, LENGTH), 3)
    given[:2, 4], given[:2, 37] = START, END
    placed, learned = given.clone(), torch.full((3, LENGTH), -100)
    learned[0, 2:40] = given[0, 2:40]
    asked = learned.clone()
    fill_codes(placed, learned, START, END, FIRST + ids[:2])
    files = {
        "weights_all": tokenizer.state_dict(),
        "encode": {
            "masks": masks.byte(), "z": z.transpose(1, 2)[:, :, None], "token_ids": ids,
            "z_quantized": unit.transpose(1, 2)[:, :, None], "codebook_projected": table,
            "codebook_projected_l2norm": F.normalize(table, dim=-1),
        },
        "encode_intermediates": {"patch_embed": calls["patch_embed"][4:6]},
        "decode_intermediates_multi_region_T16": {"dec_ffn": calls["dec_ffn"], "mask_prob": drawn.sigmoid()[:, None]},
        "decode_logits": {"logits_T16": drawn},
        "decode_full_0": {"tokens_l2_T4": tokenizer.decode(ids[4:5, :4])},
        "decode_pooled": {"prob_trunc_T1_mean8x8": F.avg_pool2d(
            tokenizer.decode_soft(F.one_hot(ids[:, :1], 64).float()), 8)},
        "decode_soft_probs": {"soft_logits": soft, "mask_prob": tokenizer.decode_soft((2 * soft).softmax(-1))},
        "hml_labels_b": {"mask": masks[1], "label_idx3": released_label(masks[1:2].float(), 3)[0]},
        "loss_inputs": {"logits": logits, "labels": labels, "target_masks": masks[:3].byte()},
        "loss_probs": {"probs": torch.stack([probabilities[0], probabilities[0], probabilities[1]])},
        "loss_grads": {"grad_mask_only": alone, "grad_mask_plus_hml": whole},
        "replace_tokens": {"input_ids": given, "labels": asked, "target_masks": masks[:3].byte(),
                           "new_input_ids": placed, "new_labels": learned},
    }  # fmt: skip
    facts = {
        "config": {"size": SIZE, "start": START, "end": END, "first": FIRST}, "image": 64, "patch": 16,
        "num_latent_tokens": 32, "codebook_size": 64, "token_size": 12, "commitment_cost": tokenizer.config.commitment,
        "mask_names": NAMES, "dec_full_samples": ["multi_region"], "losses": {"quantizer": float(loss)},
        "loss": {"valid": [True, False, True], "indices": [9, 27], "dice_weight": 0.25,
                 "mask_loss": float(losses["mask"]), "cos2fine_loss_code": float(losses["hierarchy"])},
    }  # fmt: skip
    return files, facts


def differing(folder) -> set[str]:
    return {check.name for check in parity.check(folder) if not check.ok}


def test_vectors_of_this_code_agree(vectors):
    checks = parity.check(vectors)
    assert {check.name for check in checks if not check.ok} == set()
    assert len(checks) == 25


READ = [
    ("encode", "z", "encoder output z"),
    ("encode", "token_ids", "token ids"),
    ("encode_intermediates", "patch_embed", "activation patch_embed"),
    ("decode_intermediates_multi_region_T16", "dec_ffn", "multi_region T16 dec_ffn"),
    ("decode_intermediates_multi_region_T16", "mask_prob", "multi_region T16 mask_prob"),
    ("decode_logits", "logits_T16", "decode logits_T16"),
    ("decode_full_0", "tokens_l2_T4", "decode tokens_l2_T4"),
    ("decode_pooled", "prob_trunc_T1_mean8x8", "decode prob_trunc_T1_mean8x8"),
    ("decode_soft_probs", "mask_prob", "decode soft"),
    ("hml_labels_b", "label_idx3", "hml_labels_b label_idx3"),
    ("loss_probs", "probs", "soft codes"),
    ("loss_grads", "grad_mask_only", "grad_mask_only"),
    ("replace_tokens", "new_input_ids", "placed ids"),
    ("replace_tokens", "new_labels", "placed labels"),
]


@pytest.mark.parametrize(("file", "name", "told"), READ)
def test_a_wrong_value_differs(vectors, file, name, told):
    path = vectors / f"{file}.safetensors"
    before = path.read_bytes()
    tensors = load_file(path)
    flat = tensors[name].flatten()
    flat[-1] = 1 - flat[-1] if flat.is_floating_point() else flat[-1] + 1
    try:
        save_file(tensors, path)
        assert told in differing(vectors)
    finally:
        path.write_bytes(before)


def test_a_wrong_grid_differs_and_a_missing_file_is_named(vectors, tmp_path):
    path = vectors / "eval_arithmetic.json"
    before = path.read_text()
    try:
        path.write_text(before.replace('"grid": [1, 1]}]', '"grid": [2, 1]}]'))
        assert differing(vectors) == {"chosen of at most 1 tiles"}
    finally:
        path.write_text(before)
    for each in vectors.iterdir():
        (tmp_path / each.name).symlink_to(each)
    (tmp_path / "encode_intermediates.safetensors").unlink()
    with pytest.raises(UserError, match="encode_intermediates.safetensors: missing"):
        parity.check(tmp_path)
