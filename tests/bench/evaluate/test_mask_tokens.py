"""`genseg encode` and `genseg decode`: masks into tokens and back, with the weights of a model, a stage or a file."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bench.evaluate.exchange import read_mask
from bench.evaluate.mask_tokens import decode_file, encode_files, load_mask_tokenizer
from methods.argenseg.mask_tokenizer import VQVAE
from methods.argenseg.mask_tokenizer import MaskTokenizerConfig as ImageConfig
from methods.base import UserError
from methods.files import read_lines, write_lines
from methods.himtok.mask_tokenizer import MaskTokenizer, MaskTokenizerConfig

OFFICIAL = {
    "himtok": MaskTokenizer(
        MaskTokenizerConfig(
            resolution=64, patch=16, width=64, encoder_layers=1, decoder_layers=1, heads=1, decoder_width=64,
            decoder_heads=1, codes=64, ffn_out=32, pixel_base=8, pixel_multipliers=(1, 1, 1, 1, 1), pixel_blocks=1,
            encoder_layout="official", code_space="official",
        )
    ),
    "argenseg": VQVAE(ImageConfig(width=32, multipliers=(1, 1, 1, 1, 1), blocks=1, codes=64, code_width=8)),
}  # fmt: skip


@pytest.fixture
def masks(tmp_path):
    """Four masks of different sizes as PNG files."""
    folder = tmp_path / "masks"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, (height, width) in {"tall": (60, 20), "wide": (30, 90), "small": (8, 8), "full": (40, 40)}.items():
        mask = np.ones((height, width), bool) if name == "full" else rng.random((height, width)) < 0.4
        Image.fromarray(mask).save(folder / f"{name}.png")
    return folder


def test_files_become_tokens_and_masks_again(writer, masks, tmp_path):
    mask_tokenizer = writer.mask_tokenizer
    told = list(encode_files(masks, tmp_path / "t.jsonl", mask_tokenizer))
    rows = {row["file"]: row for _, row in read_lines(tmp_path / "t.jsonl")}
    assert list(rows) == ["full.png", "small.png", "tall.png", "wide.png"]
    assert [line.split(":")[0] for line in told[:-1]] == list(rows)
    list(decode_file(tmp_path / "t.jsonl", tmp_path / "again", mask_tokenizer))
    for name, row in rows.items():
        mask = read_mask(masks / name)
        assert row["size"] == list(mask.shape)
        view = torch.from_numpy(mask_tokenizer.preprocess_mask(mask))[None, None]
        with torch.inference_mode():
            assert row["token_ids"] == mask_tokenizer.encode(view)[0].tolist()
            expected = mask_tokenizer.decode(torch.tensor([row["token_ids"]]))[0]
        found = read_mask(tmp_path / "again" / name)
        np.testing.assert_array_equal(found, mask_tokenizer.postprocess_mask(expected, mask.shape))


def test_the_first_tokens_alone(writer, masks, tmp_path):
    mask_tokenizer = writer.mask_tokenizer
    short = mask_tokenizer.prefixes[1]
    list(encode_files(masks / "tall.png", tmp_path / "short.jsonl", mask_tokenizer, short))
    list(encode_files(masks / "tall.png", tmp_path / "whole.jsonl", mask_tokenizer))
    list(decode_file(tmp_path / "short.jsonl", tmp_path / "a", mask_tokenizer))
    list(decode_file(tmp_path / "whole.jsonl", tmp_path / "b", mask_tokenizer, short))
    np.testing.assert_array_equal(read_mask(tmp_path / "a" / "tall.png"), read_mask(tmp_path / "b" / "tall.png"))
    with pytest.raises(UserError, match=f"line 1: has {short} tokens, not {mask_tokenizer.length}"):
        list(decode_file(tmp_path / "short.jsonl", tmp_path / "c", mask_tokenizer, mask_tokenizer.length))


@pytest.mark.parametrize("method", ["himtok", "argenseg"])
@pytest.mark.parametrize("ending", [".pth", pytest.param(".safetensors", marks=pytest.mark.slow)])
def test_an_official_file_is_enough(genseg, masks, tmp_path, method, ending):
    path, state = tmp_path / f"official{ending}", OFFICIAL[method].state_dict()
    torch.save(state, path) if ending == ".pth" else save_file(state, path)
    words = (f"checkpoint={path}", f"method={method}")
    assert "4 masks in" in genseg("encode", masks, tmp_path / "t.jsonl", *words).out
    assert genseg("decode", tmp_path / "t.jsonl", tmp_path / "again", *words).code == 0
    assert len(list((tmp_path / "again").glob("*.png"))) == 4
    assert "give method=NAME" in genseg("encode", masks, tmp_path / "u.jsonl", f"checkpoint={path}").complaint


def test_a_models_folder_and_a_stages_hold_the_same(himtok, build, masks, tmp_path):
    himtok.save_pretrained(tmp_path / "model")
    build("himtok", backbone=None).save_pretrained(tmp_path / "stage")
    for name in ("model", "stage"):
        loaded = load_mask_tokenizer("himtok", tmp_path / name)
        list(encode_files(masks, tmp_path / f"{name}.jsonl", loaded))
    whole = read_lines(tmp_path / "model.jsonl")
    assert len(whole) == len(read_lines(tmp_path / "stage.jsonl")) == 4
    assert all(len(row["token_ids"]) == himtok.mask_tokenizer.length for _, row in whole)


def test_a_method_without_a_mask_tokenizer_is_named(build, tmp_path):
    build("boxes").save_pretrained(tmp_path / "boxes")
    with pytest.raises(UserError, match="boxes has no mask tokenizer"):
        load_mask_tokenizer("boxes", tmp_path / "boxes")


IDS = list(range(32))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"size": [4, 4], "token_ids": IDS}, "line 1: file is None"),
        ({"file": "../a.png", "size": [4, 4], "token_ids": IDS}, "file is '../a.png'"),
        ({"file": "a.png", "size": [4], "token_ids": IDS}, r"size is \[4\]"),
        ({"file": "a.png", "size": [40000, 40000], "token_ids": IDS}, "size is"),
        ({"file": "a.png", "size": [4, 4], "token_ids": [64] * 32}, "numbers from 0 to 63"),
        ({"file": "a.png", "size": [4, 4], "token_ids": "abc"}, "numbers from 0 to 63"),
        ({"file": "a.png", "size": [4, 4], "token_ids": []}, "has 0 tokens; this mask tokenizer decodes 1, 2, 4"),
    ],
)
def test_a_faulty_line_is_named(himtok, tmp_path, row, message):
    path = write_lines(tmp_path / "t.jsonl", [row])
    with pytest.raises(UserError, match=message):
        list(decode_file(path, tmp_path / "out", himtok.mask_tokenizer))
    assert not (tmp_path / "out").exists()


def test_nothing_is_replaced_and_nothing_taken_for_a_mask(himtok, masks, tmp_path):
    (tmp_path / "t.jsonl").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        list(encode_files(masks, tmp_path / "t.jsonl", himtok.mask_tokenizer))
    with pytest.raises(UserError, match="No mask is decoded from 33 tokens; choose one of 1, 2, 4"):
        list(encode_files(masks, tmp_path / "u.jsonl", himtok.mask_tokenizer, 33))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no PNG masks"):
        list(encode_files(tmp_path / "empty", tmp_path / "u.jsonl", himtok.mask_tokenizer))
    rows = [{"file": f"a.{ending}", "size": [4, 4], "token_ids": IDS} for ending in ("png", "jpg")]
    with pytest.raises(UserError, match="two lines are of 'a.png'"):
        list(decode_file(write_lines(tmp_path / "v.jsonl", rows), tmp_path / "out", himtok.mask_tokenizer))
    assert not (tmp_path / "out").exists()
