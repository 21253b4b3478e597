"""Released checkpoints: there and back bit by bit, and every way in which one can be unusable."""

import json
import pickle
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from methods.base import Request, UserError
from methods.himtok.hierarchy import HierarchyConfig
from methods.himtok.mask_tokenizer import Encoder, MaskTokenizer, MaskTokenizerConfig
from methods.himtok.model import HiMTok
from methods.himtok.state_dict import OFFICIAL_TOKENIZER, convert, sizes_of, tokenizer_tensors
from methods.himtok.tokenizer_training import MaskTokenizerTraining
from methods.internvl.checkpoint.conversion import table
from methods.internvl.checkpoint.opengvlab import SYSTEM, key_table, read_config
from methods.registry import method_class, method_of

RELEASED = MaskTokenizerConfig(encoder_layout="official", code_space="official", decoder_width=1024, decoder_heads=16)
TINY = MaskTokenizerConfig(
    resolution=64, patch=16, width=64, encoder_layers=2, decoder_layers=1, heads=1, decoder_width=128, decoder_heads=2,
    codes=64, ffn_out=32, pixel_base=8, pixel_multipliers=(1, 1, 2, 2, 4), encoder_layout="official",
    code_space="official",
)  # fmt: skip
CODEC_PARTS = {
    "resolution": 64, "patch": 16, "width": 64, "encoder_layers": 1, "decoder_layers": 1, "heads": 1, "codes": 64,
    "ffn_out": 32, "pixel_base": 8, "pixel_multipliers": [1, 1, 1, 1, 1], "pixel_blocks": 1,
    "encoder_layout": "official", "code_space": "official",
}  # fmt: skip


def same_bits(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype
        and torch.equal(first[name].flatten().view(torch.uint8), second[name].flatten().view(torch.uint8))
        for name in first
    )


@pytest.fixture(scope="module")
def tokenizer_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    state = MaskTokenizer(TINY).state_dict()
    return {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


@pytest.fixture
def tokenizer_file(tokenizer_state, tmp_path) -> Path:
    save_file(tokenizer_state, tmp_path / "himtok.safetensors")
    return tmp_path / "himtok.safetensors"


def test_the_table_names_the_released_tensors(goldens):
    released = json.loads((goldens / "himtok" / "state_dict.json").read_text())
    tensors = tokenizer_tensors(RELEASED)
    assert table(tensors).keys() == released.keys()
    assert table(tensors, OFFICIAL_TOKENIZER).keys() == {f"mask_decoder.{name}" for name in released}
    assert len(set(table(tensors).values())) == len(released)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_pixel_decoder_has_as_many_middle_blocks_as_blocks_of_a_level(blocks):
    """As the released code builds it: both counts are one setting there."""
    decoder = MaskTokenizer(replace(TINY, pixel_blocks=blocks)).pixel_decoder
    assert (len(decoder.mid), {len(level.block) for level in decoder.up}) == (blocks, {blocks})


@pytest.mark.parametrize(
    "config",
    [RELEASED, TINY, replace(TINY, pixel_blocks=1), replace(TINY, pixel_blocks=1, pixel_mid_blocks=2)],
    ids=["official", "tiny", "one block", "two middle blocks"],
)
def test_the_sizes_are_read_off_the_shapes(config):
    shapes = tokenizer_tensors(config)
    assert sizes_of(shapes, Path("x")) == replace(config, mask_resize="official")


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_tokenizer_goes_there_and_back_bit_by_bit(tokenizer_state, tmp_path, wrapped, ending):
    source, ours, back = tmp_path / "himtok.pth", tmp_path / "ours", tmp_path / f"new/back{ending}"
    state = {f"module.{name}": tensor for name, tensor in tokenizer_state.items()} if wrapped else tokenizer_state
    torch.save({"model": state, "step": 7} if wrapped else state, source)
    assert convert(source, ours) == ours
    assert convert(ours, back) == back
    found = load_file(back) if ending == ".safetensors" else torch.load(back, weights_only=True)
    assert same_bits(found, tokenizer_state)
    method = MaskTokenizerTraining.from_pretrained(ours)
    assert method.mask_tokenizer.config == replace(TINY, mask_resize="official")
    assert torch.equal(method.mask_tokenizer.latent_tokens, tokenizer_state["latent_tokens"].float())


@pytest.fixture
def whole(build, writing) -> HiMTok:
    """A model in the released layouts that answers every prompt with `: <mask>.`"""
    method = writing(build("himtok", mask_tokenizer_config=CODEC_PARTS))
    method.processor.config = replace(method.processor.config, system="", max_tiles=4)
    method.hierarchy = HierarchyConfig("official")
    return method


def test_a_model_goes_there_and_back_bit_by_bit(whole, examples, tmp_path):
    ours, released, again = (tmp_path / name for name in ("ours", "official", "again"))
    whole.save_pretrained(ours, "bfloat16")
    assert convert(ours, released) == released
    original = load_file(released / "model.safetensors")
    names = {entry.original for entry in key_table(whole.backbone.size)}
    assert original.keys() == names | table(tokenizer_tensors(whole.mask_tokenizer.config), OFFICIAL_TOKENIZER).keys()
    assert read_config(released) == (whole.backbone.size, whole.backbone.vocabulary, False)
    convert(released, again)
    assert same_bits(load_file(again / "model.safetensors"), load_file(ours / "model.safetensors"))
    loaded = HiMTok.from_pretrained(again)
    assert loaded.processor.template.source == "official"
    assert (loaded.processor.config.system, loaded.processor.config.max_tiles, loaded.processor.config.box_scale) == (
        SYSTEM,
        4,
        999,
    )
    loaded.processor.chat = replace(loaded.processor.chat, system="")
    request = [Request(examples[0].image, ("it",))]
    assert loaded.segment(request)[0].token_ids == HiMTok.from_pretrained(ours).segment(request)[0].token_ids


def test_the_tokenizer_of_a_model_can_be_taken_out(whole, tmp_path):
    whole.save_pretrained(tmp_path / "ours")
    alone = load_file(convert(tmp_path / "ours", tmp_path / "alone.safetensors"))
    assert same_bits(alone, whole.mask_tokenizer.state_dict())


# ---- what cannot be used --------------------------------------------------------------------------------------------


def refused(source: Path, target: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        convert(source, target)
    message = str(error.value)
    assert all(word in message for word in (*words, str(source))), message
    assert "\n" not in message and message.endswith(".")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda s: s.pop("encoder.ln_post.bias"), ["lacks encoder.ln_post.bias"]),
        (lambda s: s.pop("latent_tokens"), ["lacks latent_tokens"]),
        (lambda s: s.pop("encoder.attn_mask"), ["lacks encoder.attn_mask"]),
        (lambda s: s.update({"sam.conv.weight": torch.zeros(2)}), ["unexpected sam.conv.weight"]),
        (
            lambda s: s.update({"decoder.decoder_embed.weight": torch.zeros(64, 13)}),
            ["decoder.decoder_embed.weight", "[64, 13]", "[128, 12]"],
        ),
    ],
)
def test_a_missing_unexpected_or_misshapen_tensor_is_named(tokenizer_state, tmp_path, damage, words):
    state = dict(tokenizer_state)
    damage(state)
    save_file(state, tmp_path / "himtok.safetensors")
    refused(tmp_path / "himtok.safetensors", tmp_path / "ours", *words)
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("keep", [0, 7, 3000, -100])
def test_a_truncated_file_is_damaged(tokenizer_file, tmp_path, keep):
    tokenizer_file.write_bytes(tokenizer_file.read_bytes()[:keep])
    refused(tokenizer_file, tmp_path / "ours", "damaged")
    broken = tmp_path / "himtok.pth"
    torch.save({"a": torch.zeros(5000)}, broken)
    broken.write_bytes(broken.read_bytes()[:keep])
    refused(broken, tmp_path / "ours", "damaged")


class Evil:
    def __reduce__(self):
        return print, ("owned",)


def test_a_pickle_that_runs_something_is_refused(tmp_path, capsys):
    path = tmp_path / "himtok.pth"
    torch.save({"latent_tokens": torch.zeros(2), "x": Evil()}, path)
    refused(path, tmp_path / "ours")
    path.write_bytes(pickle.dumps(Evil()))
    refused(path, tmp_path / "ours")
    assert "owned" not in capsys.readouterr().out


def test_a_file_of_other_things(tmp_path):
    torch.save({"latent_tokens": torch.zeros(2), "epoch": 3}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", tmp_path / "ours", "more than tensors")
    torch.save([1, 2], tmp_path / "y.pth")
    refused(tmp_path / "y.pth", tmp_path / "ours")


def test_folders_of_other_things(build, tmp_path):
    refused(tmp_path / "nowhere", tmp_path / "ours", "missing")
    for text in ("{", "[]", '{"method": "himtok"}'):
        (tmp_path / "config.json").write_text(text)
        refused(tmp_path, tmp_path / "ours")
    alone = build("himtok", backbone=None, mask_tokenizer_config=CODEC_PARTS)
    alone.save_pretrained(tmp_path / "alone")
    refused(tmp_path / "alone", tmp_path / "official", "tokenizer alone")
    build("himtok").save_pretrained(tmp_path / "clean")
    refused(tmp_path / "clean", tmp_path / "official", "encoder_layout clean")
    with pytest.raises(UserError, match="another place"):
        convert(tmp_path / "clean", tmp_path / "clean")
    for source, target in (("clean", "clean/model.safetensors"), ("clean/model.safetensors", "clean")):
        before = (tmp_path / "clean" / "model.safetensors").read_bytes()
        refused(tmp_path / source, tmp_path / target, "would replace what is read")
        assert (tmp_path / "clean" / "model.safetensors").read_bytes() == before


def test_a_checkpoint_is_never_replaced_by_another(whole, tmp_path):
    whole.save_pretrained(tmp_path / "ours")
    released = convert(tmp_path / "ours", tmp_path / "official")
    before = {path.name: path.read_bytes() for path in released.iterdir()}
    refused(tmp_path / "ours", released, "is there already")
    assert {path.name: path.read_bytes() for path in released.iterdir()} == before
    file = convert(tmp_path / "ours", tmp_path / "tokenizer.pth")
    refused(tmp_path / "ours", file, "is there already")
    for name in before:  # a folder of anything is another's too
        if name != "model.safetensors":
            (released / name).unlink()
    refused(tmp_path / "ours", released, "is there already")
    assert (released / "model.safetensors").read_bytes() == before["model.safetensors"]
    (tmp_path / ".again.part").mkdir()  # as a conversion that was killed leaves it
    (tmp_path / ".again.part" / "model.safetensors").write_text("half")
    again = convert(tmp_path / "ours", tmp_path / "again")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == before


def test_a_backbone_without_masks_is_no_himtok(whole, tmp_path):
    whole.save_pretrained(tmp_path / "ours")
    released = convert(tmp_path / "ours", tmp_path / "official")
    tensors = load_file(released / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if not n.startswith("mask_decoder")}, released / "model.safetensors")
    refused(released, tmp_path / "again", "no mask_decoder.* tensors")


def test_a_folder_of_ours_that_is_damaged_does_not_load(build, tmp_path):
    build("himtok", backbone=None).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"mask_tokenizer.latent_tokens": torch.zeros(31, 64)}, file)
    with pytest.raises(UserError, match=r"latent_tokens is \[31, 64\], but must be \[32, 64\]"):
        MaskTokenizerTraining.from_pretrained(tmp_path)
    save_file(tensors, file)
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(UserError, match="damaged"):
        MaskTokenizerTraining.from_pretrained(tmp_path)


# ---- the released size ----------------------------------------------------------------------------------------------

THERE_AND_BACK = """
import sys
from pathlib import Path
from methods.himtok.state_dict import convert
from methods.himtok.tokenizer_training import MaskTokenizerTraining
folder = Path(sys.argv[1])
convert(folder / "himtok.safetensors", folder / "ours")
convert(folder / "ours", folder / "back.safetensors")
tokenizer = MaskTokenizerTraining.from_pretrained(folder / "ours").mask_tokenizer
print(len(tokenizer.state_dict()), sum(p.numel() for p in tokenizer.parameters()))
"""


@pytest.mark.slow
def test_the_released_size_in_less_than_8_gigabytes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in tokenizer_tensors(RELEASED).items():
        state[name] = torch.randn(tensor.shape, generator=generator)
    state["encoder.attn_mask"] = Encoder._blocked(257, 32)
    save_file(state, tmp_path / "himtok.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", THERE_AND_BACK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["693", "644294815"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    assert peak < 8, f"{peak:.1f} GiB"
    assert same_bits(load_file(tmp_path / "back.safetensors"), state)


def test_an_official_folder_needs_no_conversion(whole, tmp_path):
    whole.save_pretrained(tmp_path / "ours")
    released = convert(tmp_path / "ours", tmp_path / "official")
    assert method_of(released) == method_of(tmp_path / "ours") == "himtok"
    found = HiMTok.from_pretrained(released)
    assert same_bits(found.state_dict(), whole.state_dict())
    assert (found.processor.template.source, found.processor.config.max_tiles) == ("official", 4)
    with pytest.raises(UserError, match="not a model of ARGenSeg|holds no VQ-VAE"):
        method_class("argenseg").from_pretrained(released)


def test_a_folder_of_no_method_is_told(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(UserError, match="LlamaForCausalLM"):
        method_of(tmp_path)
    with pytest.raises(UserError, match="no config.json"):
        method_of(tmp_path / "nowhere")
