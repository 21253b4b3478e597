"""Released checkpoints to this project's folders and back, bit for bit; and what is refused."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from methods.argenseg.mask_tokenizer import VQVAE, MaskTokenizerConfig
from methods.argenseg.model import ARGenSeg
from methods.argenseg.state_dict import convert, sizes_of
from methods.argenseg.tokenizer_training import ImageTokenizerTraining
from methods.base import UserError
from methods.internvl.checkpoint.io import read_tensors
from methods.internvl.vocabulary import add_tokens

SMALL = MaskTokenizerConfig(width=32, multipliers=(1, 1, 1, 1, 2), blocks=1, codes=64, code_width=8)


@pytest.fixture
def tokenizer() -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(SMALL)


@pytest.fixture(params=[".pth", ".safetensors"])
def var_file(request, tokenizer, tmp_path):
    """VAR's VQ-VAE, small, as a file."""
    path = tmp_path / f"vae{request.param}"
    torch.save(tokenizer.state_dict(), path) if request.param == ".pth" else save_file(tokenizer.state_dict(), path)
    return path


def equal(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_vars_file_becomes_a_tokenizer_and_comes_back(tokenizer, var_file, tmp_path):
    folder = convert(var_file, tmp_path / "ours")
    loaded = ImageTokenizerTraining.from_pretrained(folder)
    assert loaded.mask_tokenizer.config == SMALL
    assert equal(loaded.mask_tokenizer.state_dict(), tokenizer.state_dict())
    back = convert(folder, tmp_path / f"back{var_file.suffix}")
    found = load_file(back) if back.suffix == ".safetensors" else torch.load(back, weights_only=True)
    assert equal(found, tokenizer.state_dict())


def test_a_joint_model_is_built_on_the_converted_tokenizer(tokenizer, var_file, backbone_folder, tmp_path):
    folder = convert(var_file, tmp_path / "ours")
    method = ARGenSeg.build({"backbone": str(backbone_folder), "mask_tokenizer": str(folder)}, tuple)
    assert equal(method.mask_tokenizer.state_dict(), tokenizer.state_dict())
    assert method.backbone.vocabulary == method.processor.mask_token_offset + 64


@pytest.fixture
def ours(build, tmp_path):
    folder = tmp_path / "ours"
    method = build("argenseg", mask_tokenizer_config={"width": 32, "multipliers": [1] * 5, "blocks": 1, "codes": 64})
    method.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_whole_model_goes_to_the_released_layout_and_back(ours, tmp_path):
    released = convert(ours, tmp_path / "official")
    tensors = read_tensors(released)
    assert {"word_embed.weight", "pos_1LC", "lvl_embed.weight", "mlp1.1.weight"} <= tensors.keys()
    assert tensors["image_tokenizer.quantize.ema_vocab_hit_SV"].shape == (10, 64)
    assert not any(name.startswith(("mask_tokenizer.", "backbone.")) for name in tensors)
    again = convert(released, tmp_path / "again")
    assert equal(read_tensors(again), read_tensors(ours))
    method = ARGenSeg.from_pretrained(again)
    assert (
        method.mask_tokenizer.config.mask_resize,
        method.variant.prompt_template,
        method.processor.config.max_tiles,
    ) == ("official", "official", 1)
    assert method.processor.config.system.startswith("你是书生")
    vqvae = convert(ours, tmp_path / "vae.safetensors")
    assert equal(load_file(vqvae), method.mask_tokenizer.state_dict())


def test_precision_is_kept(ours, tmp_path):
    ARGenSeg.from_pretrained(ours).save_pretrained(tmp_path / "half", "bfloat16")
    released = convert(tmp_path / "half", tmp_path / "official")
    assert {tensor.dtype for tensor in read_tensors(released).values()} == {torch.bfloat16}


def changed(folder, **changes):
    """Tensors of a folder's one file with some replaced, or removed by None."""
    tensors = load_file(folder / "model.safetensors") | {name.replace("__", "."): t for name, t in changes.items()}
    save_file({name: t for name, t in tensors.items() if t is not None}, folder / "model.safetensors")


def test_parts_that_a_saved_generator_repeats_are_left_out(ours, tmp_path):
    released = convert(ours, tmp_path / "official")
    changed(released, language_model__pos_1LC=torch.zeros(1), language_model__image_tokenizer__x=torch.zeros(1))
    assert equal(read_tensors(convert(released, tmp_path / "again")), read_tensors(ours))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pos_1LC": None}, "lacks pos_1LC; it is not a model of ARGenSeg"),
        ({"image_tokenizer__quant_conv__bias": None}, "lacks quant_conv.bias"),
        ({"vision_model__embeddings__class_embedding": None}, "lacks vision_model.embeddings.class_embedding"),
        ({"language_model__extra": torch.zeros(1)}, "has unexpected language_model.extra"),
        ({"lvl_embed__weight": torch.zeros(3, 64)}, r"lvl_embed.weight is \[3, 64\], but must be \[10, 64\]"),
        ({"image_tokenizer__quant_conv__bias": torch.zeros(3)}, r"quant_conv.bias is \[3\], but must be \[32\]"),
        ({"pos_1LC": torch.zeros(1, 681, 64)}, "writes 681 tokens an image; official models write 680 and 2240"),
    ],
)
def test_other_tensors_are_refused_by_name(ours, tmp_path, changes, message):
    released = convert(ours, tmp_path / "official")
    changed(released, **changes)
    with pytest.raises(UserError, match=message):
        convert(released, tmp_path / "again")


def test_a_tokenizer_of_other_weights_is_refused(ours, tmp_path):
    released = convert(ours, tmp_path / "official")
    method = ARGenSeg.from_pretrained(ours)
    add_tokens(method.processor.tokenizer, ["<more>"])
    method.processor.tokenizer.save_pretrained(released)
    with pytest.raises(UserError, match="copy the tokenizer that belongs to these weights"):
        convert(released, tmp_path / "again")


def test_visual_ids_are_found_by_their_string(ours, tmp_path):
    """The released tokenizer has 4096 strings after the text; ids count from the first of them."""
    method = ARGenSeg.from_pretrained(ours)
    low = method.processor.mask_token_offset
    add_tokens(method.processor.tokenizer, [f"<visual token {i:06d}>" for i in range(64)])
    method.save_pretrained(tmp_path / "named")
    assert ARGenSeg.from_pretrained(tmp_path / "named").processor.mask_token_offset == low


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trap",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"encoder.conv_in.weight": Trap()}, tmp_path / "vae.pth")
    with pytest.raises(UserError, match=r"vae.pth: holds a Python object \(posix.mkdir\)"):
        convert(tmp_path / "vae.pth", tmp_path / "ours")
    assert not (tmp_path / "trap").exists()


def test_damaged_and_missing_files_are_one_sentence(var_file, tmp_path):
    var_file.write_bytes(var_file.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        convert(var_file, tmp_path / "ours")
    with pytest.raises(UserError, match="missing"):
        convert(tmp_path / "nothing", tmp_path / "ours")
    with pytest.raises(UserError, match="another place"):
        convert(var_file, var_file)


def test_what_the_released_code_cannot_run_stays_here(build, tokenizer, tmp_path):
    build("argenseg", mask_tokenizer_config="short").save_pretrained(tmp_path / "short")
    with pytest.raises(UserError, match="variant that the official code cannot run"):
        convert(tmp_path / "short", tmp_path / "official")
    build("argenseg", backbone=None, mask_tokenizer_config="short").save_pretrained(tmp_path / "alone")
    with pytest.raises(UserError, match=r"a VQ-VAE alone; give a target that ends in .pth"):
        convert(tmp_path / "alone", tmp_path / "official")


def test_sizes_of_vars_file(goldens):
    stored = json.loads((goldens / "argenseg" / "state_dict.json").read_text())
    tensors = {name: torch.empty(shape, device="meta") for name, shape in stored.items()}
    assert sizes_of(tensors, 680, goldens) == MaskTokenizerConfig()
    large = sizes_of(tensors, 2240, goldens)
    assert (large.resolution, large.scales[-1]) == (512, 32)


@pytest.mark.slow
def test_vars_vqvae_at_its_released_size(tmp_path):
    """324 tensors, 108,948,355 parameters."""
    tokenizer = VQVAE(MaskTokenizerConfig())
    torch.save(tokenizer.state_dict(), tmp_path / "vae_ch160v4096z32.pth")
    folder = convert(tmp_path / "vae_ch160v4096z32.pth", tmp_path / "ours")
    assert ImageTokenizerTraining.from_pretrained(folder).mask_tokenizer.config == MaskTokenizerConfig()
    back = torch.load(convert(folder, tmp_path / "back.pth"), weights_only=True, mmap=True)
    assert len(back) == 324
    assert equal(back, tokenizer.state_dict())


@pytest.mark.slow
def test_an_official_folder_needs_no_conversion_but_a_tokenizer(ours, tmp_path):
    """Its own, or that of VAR's file, which may then be missing in the folder."""
    released = convert(ours, tmp_path / "official")
    want = ARGenSeg.from_pretrained(ours).state_dict()
    found = ARGenSeg.from_pretrained(released).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in want.items())
    alone = convert(ours, tmp_path / "vae.pth")
    tensors = {
        n: t for n, t in load_file(released / "model.safetensors").items() if not n.startswith("image_tokenizer.")
    }
    save_file(tensors, released / "model.safetensors")
    found = ARGenSeg.from_pretrained(released, alone).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in want.items())
    with pytest.raises(UserError, match="mask_tokenizer="):
        ARGenSeg.from_pretrained(released)
    with pytest.raises(UserError, match="already has the mask tokenizer"):
        ARGenSeg.from_pretrained(ours, alone)
