"""This code against vectors of the released one, and that a wrong vector is noticed."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from methods.argenseg import parity
from methods.argenseg.config import SCALES_256
from methods.argenseg.mask_tokenizer import VQVAE, MaskTokenizerConfig
from methods.argenseg.parity_model import made_weight
from methods.argenseg.quantizer import phi_of_scale
from methods.argenseg.schedule import keep_likely
from methods.base import UserError


def wrong(checks) -> list[str]:
    return [f"{c.name}: {c.value}, not {c.reference}" for c in checks if not c.ok]


@pytest.mark.slow
def test_the_whole_model_agrees_with_the_released_code(goldens):
    """Sequences, ids, losses, gradients, two masks in an answer by scales and by tokens, guidance, images."""
    checks = parity.check(goldens / "argenseg")
    assert wrong(checks) == []
    names = " ".join(check.name for check in checks)
    for part in ("visual ids", "text loss", "grad.", "token by token", "teacher-forced", "guided", "pad"):
        assert part in names
    assert len(checks) >= 45


@pytest.fixture
def copied(goldens, tmp_path):
    """copied(file) -> a folder with the model's description and one file of vectors."""

    def copy(file: str):
        for name in ("meta.json", "weight_overrides.safetensors", f"{file}.safetensors"):
            shutil.copyfile(goldens / "argenseg" / name, tmp_path / name)
        return tmp_path

    return copy


def test_one_wrong_pixel_is_noticed(copied):
    folder = copied("mask_preprocess")
    assert wrong(parity.check(folder)) == []
    path = folder / "mask_preprocess.safetensors"
    tensors = load_file(path)
    tensors["mask_pad_1"][128, 128] += 1
    save_file(tensors, path)
    assert wrong(parity.check(folder)) == ["mask 1 as an image, pad: 1 of 65536 differ, not equal"]


def test_one_wrong_id_is_noticed(copied):
    folder = copied("cfg_generation")
    path = folder / "cfg_generation.safetensors"
    tensors = load_file(path)
    tensors["visual_ids"][300] += 1
    save_file(tensors, path)
    assert wrong(parity.check(folder)) == ["guided: visual ids: 1 of 680 differ, not equal"]


def test_other_weights_are_noticed(copied):
    folder = copied("mask_preprocess")
    facts = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(facts | {"seed": facts["seed"] + 1}))
    assert "made weights" in wrong(parity.check(folder))[0]


def test_constants_are_read_from_the_recipe_and_it_is_not_run(copied):
    folder = copied("mask_preprocess")
    (folder / "weights_recipe.py").write_text("raise SystemExit\nCODEBOOK_STD = 0.25\nOTHER = print\n")
    assert wrong(parity.check(folder))[0].startswith("SHA-256 of 383 made weights, those that differ: ['image_tokeni")


def test_a_damaged_description_is_one_sentence(copied):
    folder = copied("mask_preprocess")
    (folder / "meta.json").write_text("{")
    with pytest.raises(UserError, match=r"meta.json: damaged .*copy the folder"):
        parity.check(folder)


def test_other_folders_are_not_taken_for_vectors(goldens, tmp_path):
    assert parity.recognises(goldens / "argenseg")
    assert not parity.recognises(goldens / "himtok")
    assert not parity.recognises(tmp_path)


# ---- the VQ-VAE's own vectors, of another size ----------------------------------------------------------------------

SMALL = MaskTokenizerConfig(
    resolution=16, width=32, multipliers=(1, 2), blocks=1, codes=64, code_width=8, scales=(1, 2, 3, 5, 8),
    quant_resi_ratio=0.25, beta=0.5,
)  # fmt: skip


def plain_quantiser(tokenizer: VQVAE, features: torch.Tensor):
    """Ids, sums and next inputs by PyTorch's own resizes, without the matrices of this project."""
    quantizer, rest, total = tokenizer.quantize, features, torch.zeros_like(features)
    ids, sums, inputs = [], [], []
    for k, side in enumerate(quantizer.scales):
        cells = F.adaptive_avg_pool2d(rest, side).flatten(2).transpose(1, 2)
        ids.append(torch.cdist(cells, quantizer.embedding.weight).argmin(-1))
        h = quantizer.embedding(ids[-1]).transpose(1, 2).unflatten(2, (side, side))
        h = F.interpolate(h, features.shape[-2:], mode="bicubic") if side < features.shape[-1] else h
        phi = quantizer.quant_resi["qresi_ls"][(0, 1, 2, 2, 3)[k]]
        h = 0.75 * h + 0.25 * phi(h)
        rest, total = rest - h, total + h
        sums.append(total)
        if k + 1 < len(quantizer.scales):
            inputs.append(F.adaptive_avg_pool2d(total, quantizer.scales[k + 1]))
    return ids, sums, inputs


@pytest.fixture
@torch.no_grad()
def small_vectors(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tokenizer = VQVAE(SMALL).eval()
    weights, exponents = {}, {}
    for name, tensor in tokenizer.state_dict().items():
        weights[name] = torch.randint(-127, 128, tensor.shape, generator=generator).to(torch.int8)
        exponents[name] = -6 if tensor.ndim == 1 else -round(np.log2(tensor[0].numel() ** 0.5)) - 6
    tokenizer.load_state_dict({name: tensor.float() * 2.0 ** exponents[name] for name, tensor in weights.items()})
    del weights["quantize.ema_vocab_hit_SV"], weights["quantize.embedding.weight"]
    images = torch.rand(2, 3, 16, 16, generator=generator).half() * 2 - 1
    encoded = tokenizer.encoder(images.float())
    features = tokenizer.quant_conv(encoded)
    tokenizer.quantize.embedding.weight.copy_(features.std() * torch.randn(64, 8, generator=generator))
    ids, sums, inputs = plain_quantiser(tokenizer, features)
    forced = torch.cat([part.flatten(2).transpose(1, 2) for part in inputs], 1)
    io = {"images": images, "encoder_out": encoded, "f": features, "teacher_forcing_input": forced}
    io |= {f"tokens_{k}": part.int() for k, part in enumerate(ids)}
    io |= {f"f_hat_{k}": part for k, part in enumerate(sums)} | {
        f"next_input_{k}": part for k, part in enumerate(inputs)
    }
    save_file({name: tensor.contiguous() for name, tensor in io.items()}, tmp_path / "io.safetensors")
    save_file(weights, tmp_path / "weights_int8.safetensors", {"exponents": json.dumps(exponents)})
    save_file(
        {"quantize.embedding.weight": tokenizer.quantize.embedding.weight.data}, tmp_path / "codebook_f32.safetensors"
    )
    sizes = {"ch_mult": [1, 2], "v_patch_nums": list(SMALL.scales), "ch": 32, "num_res_blocks": 1, "vocab_size": 64,
             "z_channels": 8, "share_quant_resi": 4, "beta": 0.5, "quant_resi": 0.25}  # fmt: skip
    (tmp_path / "meta.json").write_text(json.dumps({"config": sizes}))
    return tmp_path


def test_a_vqvae_of_any_size_is_checked(small_vectors):
    assert parity.recognises(small_vectors)
    checks = parity.check(small_vectors)
    assert wrong(checks) == []
    assert len(checks) == 4 + 5 + 4 + 2


def test_a_wrong_sum_is_noticed(small_vectors):
    io = load_file(small_vectors / "io.safetensors")
    io["f_hat_2"][0, 0, 0, 0] += 1e-3
    save_file(io, small_vectors / "io.safetensors")
    assert [text[:15] for text in wrong(parity.check(small_vectors))] == ["sum after scale"]


def test_vectors_that_lack_a_weight_are_one_sentence(small_vectors):
    save_file({}, small_vectors / "codebook_f32.safetensors")
    with pytest.raises(UserError, match=r"lack quantize.embedding.weight"):
        parity.check(small_vectors)


# ---- single facts ---------------------------------------------------------------------------------------------------


def test_weights_are_made_by_name_and_seed():
    first, second = (made_weight("a.weight", (4, 4), seed, {"OUT_GAIN": 2.0}) for seed in (1, 2))
    assert first.dtype == np.float32
    assert not np.array_equal(first, second)


def test_names_and_shapes_are_those_of_vars_file(goldens):
    with torch.device("meta"):
        tokenizer = VQVAE(MaskTokenizerConfig())
    found = {name: list(tensor.shape) for name, tensor in tokenizer.state_dict().items()}
    stored = json.loads((goldens / "argenseg" / "state_dict.json").read_text())
    assert found == {name: list(shape) for name, shape in stored.items()}
    assert len(found) == 324
    assert sum(p.numel() for p in tokenizer.parameters()) == 108_948_355
    assert tokenizer.length == 680


def test_phis_of_the_reference(goldens):
    table = json.loads((goldens / "argenseg" / "phi_index_table.json").read_text())
    for name, expected in table.items():
        phis, scales = (int(part[1:]) for part in name.split("_"))
        assert list(phi_of_scale(phis, scales)) == expected, name
    assert phi_of_scale(4, len(SCALES_256)) == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)


@pytest.mark.parametrize("top_k, top_p", [(0, 0.0), (0, 0.9), (1, 0.5), (20, 0.8), (5, 0.0), (64, 0.96)])
def test_filters_keep_what_the_reference_keeps(goldens, top_k, top_p):
    tensors = load_file(goldens / "argenseg" / "sampling_filter.safetensors")
    assert torch.equal(keep_likely(tensors["logits"], top_k, top_p), tensors[f"keep_k{top_k}_p{top_p}"].bool())
