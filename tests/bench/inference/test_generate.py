"""`genseg generate` and `genseg convert`."""

import pytest
from PIL import Image
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def models(build, tmp_path_factory):
    folders = {}
    for name in ("himtok", "argenseg"):
        folders[name] = tmp_path_factory.mktemp(name)
        build(name).save_pretrained(folders[name])
    return folders


def test_an_image_is_written(genseg, models, tmp_path):
    words = ("generate", "a red apple on grass", "--checkpoint", models["argenseg"])
    pixels = []
    for name, more in (("a.png", ()), ("b.png", ()), ("c.png", ("--seed", "1"))):
        result = genseg(*words, "--out", tmp_path / name, *more)
        assert result.code == 0, result.err
        assert f"{name}: 'a red apple on grass' by argenseg" in result.out.replace("\n", "")
        pixels.append(Image.open(tmp_path / name).convert("RGB").tobytes())
    assert pixels[0] == pixels[1] != pixels[2]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((" ",), "caption is empty"),
        (("a dog", "--method", "himtok", "--checkpoint", "any"), "himtok writes masks only"),
        (("a dog", "--method", "other"), "no model of 'other'"),
        (("a dog", "--out", "image.txt"), "image.txt: cannot be written"),
    ],
)
def test_what_cannot_be_drawn(genseg, models, tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    extra = () if "--checkpoint" in words or "--method" in words else ("--checkpoint", models["argenseg"])
    result = genseg("generate", *words, *extra)
    assert result.code == 2
    assert named in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_checkpoints_are_converted_there_and_back(genseg, models, tmp_path):
    released, again = tmp_path / "released", tmp_path / "again"
    assert genseg("convert", models["argenseg"], released, "--method", "argenseg").code == 0
    assert genseg("convert", released, again, "--method", "argenseg").code == 0
    assert load_file(again / "model.safetensors").keys() == load_file(models["argenseg"] / "model.safetensors").keys()


@pytest.mark.parametrize(
    ("source", "method", "named"),
    [("himtok", "himtok", "the official code cannot run"), ("none", "himtok", "none"), ("none", "other", "'other'")],
)
def test_what_cannot_be_converted(genseg, models, tmp_path, source, method, named):
    result = genseg("convert", models.get(source, tmp_path / source), tmp_path / "out", "--method", method)
    assert result.code == 2
    assert named in result.err
    assert not (tmp_path / "out").exists()
