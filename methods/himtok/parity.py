"""HiMTok's mask tokenizer, losses and token placement against vectors of the official code (`golden.json`, tensors)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.himtok.config import HierarchyConfig, MaskTokenizerConfig
from methods.himtok.hierarchy import hierarchical_loss, released_label
from methods.himtok.mask_tokenizer import MaskTokenizer
from methods.himtok.model import fill_codes
from methods.internvl.chat import IGNORED
from methods.internvl.tiles import choose_grid, grids
from methods.parity import Check, close, named_weights, read, same

PROBABILITY, LOGIT, LOSS, ACTIVATION = 2e-4, 2e-3, 1e-4, 5e-5  # tolerances; ids are exact
TILE = 448  # side in pixels
TEMPERATURE = 0.5


def recognises(folder: Path) -> bool:
    """Whether the folder holds vectors of this form."""
    return (folder / "golden.json").is_file()


@torch.no_grad()
def check(folder: Path) -> list[Check]:
    """Ids, decodings, activations, labels, losses, gradients, placement, tile grids; `prepare_image`, which only pads
    where nothing here does, the evaluation's other arithmetic and the vectors of released size are not read."""
    facts = json.loads((folder / "golden.json").read_text())
    mask_tokenizer = load_mask_tokenizer(folder, facts)
    encoded = read(folder, "encode")
    return [
        *_encode(mask_tokenizer, encoded, facts),
        *_decode(mask_tokenizer, encoded, folder, facts),
        *_activations(mask_tokenizer, encoded, folder, facts),
        *_labels(folder),
        *_losses(mask_tokenizer, folder, facts),
        *_gradients(mask_tokenizer, folder, facts),
        *_placement(mask_tokenizer, folder, facts),
        *_tiles(folder),
    ]


def load_mask_tokenizer(folder: Path, facts: dict[str, Any]) -> MaskTokenizer:
    """The tokenizer of the sizes in golden.json, in the released layout, with the folder's weights."""
    size = facts["config"]["size"]
    (width, layers, heads), (wide, deep, heads_out) = size["enc"], size["dec"]
    config = MaskTokenizerConfig(
        resolution=facts["image"], patch=facts["patch"], width=width, encoder_layers=layers, heads=heads,
        decoder_width=wide, decoder_layers=deep, decoder_heads=heads_out, latents=facts["num_latent_tokens"],
        codes=facts["codebook_size"], code_width=facts["token_size"], commitment=facts["commitment_cost"],
        ffn_out=size["z_channels"], pixel_base=size["hidden_channels"], pixel_blocks=size["num_res_blocks"],
        pixel_multipliers=tuple(size["channel_mult"]), encoder_layout="official", code_space="official",
    )  # fmt: skip
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("weights_*.safetensors")):
        tensors |= read(folder, path.stem)
    mask_tokenizer = MaskTokenizer(config).eval()
    shapes = {name: tensor.shape for name, tensor in mask_tokenizer.state_dict().items()}
    mask_tokenizer.load_state_dict(named_weights(shapes, tensors, folder))
    return mask_tokenizer


def _encode(mask_tokenizer: MaskTokenizer, encoded: dict[str, Tensor], facts: dict[str, Any]) -> list[Check]:
    masks = encoded["masks"].float()[:, None]
    z = mask_tokenizer.latents(masks)
    unit, ids, loss = mask_tokenizer.quantize(z)
    table = mask_tokenizer.quantize.table()
    checks = [
        close("encoder output z", z, _rows(encoded["z"]), 2e-5),
        same("token ids", ids, encoded["token_ids"]),
        close("quantised vectors", unit, _rows(encoded["z_quantized"]), 2e-5),
        close("projected table", table, encoded["codebook_projected"], 1e-5),
        close("normalised table", F.normalize(table, dim=-1), encoded["codebook_projected_l2norm"], 1e-5),
        close("quantizer loss", loss, torch.tensor(facts["losses"]["quantizer"]), LOSS),
    ]
    alone = torch.cat([mask_tokenizer.encode(mask[None]) for mask in masks])
    return [*checks, same("token ids, one mask at a time", alone, encoded["token_ids"])]


def _rows(z: Tensor) -> Tensor:
    """[B, D, 1, T] -> [B, T, D]."""
    return z[:, :, 0].transpose(1, 2)


def _decode(
    mask_tokenizer: MaskTokenizer, encoded: dict[str, Tensor], folder: Path, facts: dict[str, Any]
) -> list[Check]:
    chosen = [facts["mask_names"].index(name) for name in facts["dec_full_samples"]]
    checks = []
    tensors = read(folder, "decode_logits")
    for path in sorted(folder.glob("decode_full_*.safetensors")):
        tensors |= read(folder, path.stem)
    tensors |= read(folder, "decode_pooled")
    for name, reference in sorted(tensors.items()):
        variant, _, rest = name.rpartition("_T")
        count, _, pooled = rest.partition("_")
        ids = encoded["token_ids"] if pooled else encoded["token_ids"][chosen]
        logits = _variant(mask_tokenizer, variant, ids, int(count))
        ours = logits if variant == "logits" else logits.sigmoid()
        if pooled:
            ours = F.avg_pool2d(ours, 8)
        checks.append(close(f"decode {name}", ours, reference, LOGIT if variant == "logits" else PROBABILITY))
    soft = read(folder, "decode_soft_probs")
    probabilities = (soft["soft_logits"] / TEMPERATURE).softmax(-1)
    return [*checks, close("decode soft", mask_tokenizer.decode_soft(probabilities), soft["mask_prob"], PROBABILITY)]


def _variant(mask_tokenizer: MaskTokenizer, variant: str, ids: Tensor, count: int) -> Tensor:
    """Logits from the first `count` ids in one of the reference's three ways."""
    if variant == "tokens_l2":
        return torch.logit(mask_tokenizer.decode(ids[:, :count]).double()).float()
    codes = mask_tokenizer.mix(F.one_hot(ids, mask_tokenizer.size).float())
    if variant == "prob_zeroed":
        codes[:, count:] = 0
        return mask_tokenizer.logits(codes)
    return mask_tokenizer.logits(codes[:, :count])


def _activations(
    mask_tokenizer: MaskTokenizer, encoded: dict[str, Tensor], folder: Path, facts: dict[str, Any]
) -> list[Check]:
    """What leaves the parts on the way, by the reference's names; the encoder's first three for the masks 4 and 5."""
    encoder, decoder, pixels = mask_tokenizer.encoder, mask_tokenizer.decoder, mask_tokenizer.pixel_decoder
    parts = {
        "patch_embed": encoder.patch_embed, "enc_ln_pre": encoder.ln_pre,
        "enc_last_block_LND": encoder.transformer[-1], "enc_ln_post_latents": encoder.ln_post,
        "decoder_embed": decoder.decoder_embed, "dec_ln_pre": decoder.ln_pre, "dec_ln_post_patches": decoder.ln_post,
        "dec_ffn": decoder.ffn, "pix_conv_in": pixels.conv_in, "pixel_decoder_out": pixels,
    }  # fmt: skip
    found: dict[str, Tensor] = {}
    hooks = [
        part.register_forward_hook(lambda *call, name=name: found.update({name: call[-1]}))
        for name, part in parts.items()
    ]
    names, checks = facts["mask_names"], []
    try:
        mask_tokenizer.latents(encoded["masks"].float()[:, None])
        for name, reference in sorted(read(folder, "encode_intermediates").items()):
            ours = found[name] if name == "enc_ln_post_latents" else found[name][4:6]
            ours = ours.transpose(0, 1) if name.endswith("_LND") else ours
            checks.append(close(f"activation {name}", ours, reference, ACTIVATION))
        for path in sorted(folder.glob("decode_intermediates_*.safetensors")):
            mask, _, count = path.stem.removeprefix("decode_intermediates_").rpartition("_T")
            drawn = _variant(mask_tokenizer, "logits", encoded["token_ids"][[names.index(mask)]], int(count)).sigmoid()
            found["mask_prob"] = drawn[:, None]
            for name, reference in sorted(read(folder, path.stem).items()):
                tolerance = PROBABILITY if name in ("mask_prob", "pixel_decoder_out") else ACTIVATION
                checks.append(close(f"{mask} T{count} {name}", found[name], reference, tolerance))
    finally:
        for hook in hooks:
            hook.remove()
    return checks


def _tiles(folder: Path) -> list[Check]:
    """The grids of tiles that images are cut into; not every set of vectors has them."""
    path = folder / "eval_arithmetic.json"
    cut = json.loads(path.read_text())["dynamic_tiles"] if path.is_file() else {}
    checks = []
    for most, reference in cut.items():
        order, cases = torch.tensor(grids(int(most))), reference["cases"]
        checks.append(same(f"grids of at most {most} tiles", order, torch.tensor(reference["candidate_order"])))
        chosen = torch.tensor([choose_grid(*case["size"], TILE, int(most)) for case in cases])
        wanted = torch.tensor([case["grid"] for case in cases])
        checks.append(same(f"chosen of at most {most} tiles", chosen, wanted))
    return checks


def _labels(folder: Path) -> list[Check]:
    checks = []
    for path in sorted(folder.glob("hml_labels_*.safetensors")):
        tensors = read(folder, path.stem)
        mask = tensors.pop("mask").float()[None]
        for name, reference in sorted(tensors.items()):
            ours = released_label(mask, int(name.removeprefix("label_idx")))[0]
            checks.append(close(f"{path.stem} {name}", ours, reference, 1e-5))
    return checks


def _losses(mask_tokenizer: MaskTokenizer, folder: Path, facts: dict[str, Any]) -> list[Check]:
    expected = facts["loss"]
    valid = torch.tensor(expected["valid"])
    probabilities = read(folder, "loss_probs")["probs"][valid]
    masks = read(folder, "loss_inputs")["target_masks"].float()[valid]
    config = HierarchyConfig("official", dice=expected["dice_weight"])
    losses = hierarchical_loss(mask_tokenizer, probabilities, masks, config, torch.tensor(expected["indices"]))
    reference = {"mask": expected["mask_loss"], "hierarchy": expected["cos2fine_loss_code"]}
    return [close(f"{name} loss", losses[name], torch.tensor(value), LOSS) for name, value in reference.items()]


def _gradients(mask_tokenizer: MaskTokenizer, folder: Path, facts: dict[str, Any]) -> list[Check]:
    """Soft codes from logits, and the losses' gradients with respect to the logits."""
    inputs, expected, config = read(folder, "loss_inputs"), facts["loss"], facts["config"]
    low, tokens = config["first"], mask_tokenizer.length
    rows = torch.tensor(expected["valid"]).nonzero().flatten()
    starts = [int((inputs["labels"][row] == config["start"]).nonzero()[0]) for row in rows]
    columns = torch.tensor(starts)[:, None] + 1 + torch.arange(tokens)
    masks = inputs["target_masks"].float()[rows]
    checks = []
    for name, levels in (("grad_mask_only", []), ("grad_mask_plus_hml", expected["indices"])):
        with torch.enable_grad():
            logits = inputs["logits"].clone().requires_grad_()
            block = logits[rows[:, None], columns][..., low : low + mask_tokenizer.size]
            probabilities = (block / TEMPERATURE).softmax(-1)
            losses = hierarchical_loss(
                mask_tokenizer, probabilities, masks, HierarchyConfig("official", dice=expected["dice_weight"]),
                torch.tensor(levels, dtype=torch.long),
            )  # fmt: skip
            sum(losses.values()).backward()
        checks.append(close(name, logits.grad, read(folder, "loss_grads")[name], 1e-6))
    reference = read(folder, "loss_probs")["probs"][rows]
    return [close("soft codes", probabilities, reference, 1e-6), *checks]


def _placement(mask_tokenizer: MaskTokenizer, folder: Path, facts: dict[str, Any]) -> list[Check]:
    tensors, config = read(folder, "replace_tokens"), facts["config"]
    ids, labels = tensors["input_ids"].clone(), tensors["labels"].clone()
    has = (ids == config["start"]).any(1)
    codes = config["first"] + mask_tokenizer.encode(tensors["target_masks"].float()[has][:, None])
    # The released code looks for the first start token of a row and fills the places after it.
    places = torch.arange(ids.shape[1])
    first = (ids == config["start"]).long().argmax(1)[:, None]
    block = has[:, None] & (places >= first) & (places <= first + mask_tokenizer.length + 1)
    written = ids.masked_fill(~block, IGNORED)
    fill_codes(written, labels, config["start"], config["end"], codes)
    ids = torch.where(block, written, ids)
    learned = labels != IGNORED
    return [
        same("placed ids", ids, tensors["new_input_ids"]),
        same("placed labels", labels, tensors["new_labels"]),
        same("learned positions", learned, tensors["labels"] != IGNORED),
    ]
