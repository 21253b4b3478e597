"""Images are known again by what they show."""

import json

import numpy as np
import pytest
from PIL import Image, ImageFilter

from bench.cli import main
from bench.data.overlap import looks_of, shared_images
from methods.base import UserError


def an_image(seed):
    """Smooth colours, as a photograph has them, uint8 RGB 160 x 120."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC)


CHANGES = {
    "smaller": lambda image: image.resize((96, 72), Image.Resampling.LANCZOS),
    "stretched": lambda image: image.resize((128, 128)),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_changed_copies_are_found_and_others_are_not(tmp_path, change, suffix):
    first = [tmp_path / f"{seed}.png" for seed in range(12)]
    for seed, path in enumerate(first):
        an_image(seed).save(path)
    copy = tmp_path / f"copy{suffix}"
    CHANGES[change](an_image(7)).save(copy, quality=60)
    pairs = list(shared_images(looks_of(first), looks_of([copy, *first[:2]])))
    assert [(pair.first.name, pair.second.name) for pair in pairs] == [
        ("0.png", "0.png"), ("1.png", "1.png"), ("7.png", copy.name)]  # fmt: skip


def test_plain_images_are_told_apart(tmp_path):
    for name in ("black", "white"):
        Image.new("RGB", (50, 40), name).save(tmp_path / f"{name}.png")
    black, white = (looks_of([tmp_path / f"{name}.png"]) for name in ("black", "white"))
    assert not list(shared_images(black, white)) and len(list(shared_images(black, black))) == 1


def test_files_that_cannot_be_read(tmp_path):
    an_image(0).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    looks = looks_of([tmp_path / name for name in ("a.png", "b.png", "gone.png")])
    assert [path.name for path in looks.unreadable] == ["b.png", "gone.png"] and len(looks.paths) == 1
    with pytest.raises(UserError, match="None of its 1 images can be read"):
        looks_of([tmp_path / "gone.png"])


def test_the_command_lists_pairs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder, seeds in (("one", (0, 1, 2)), ("two", (2, 3))):
        (tmp_path / folder).mkdir()
        for seed in seeds:
            an_image(seed).save(tmp_path / folder / f"{10 * len(folder) + seed}{folder}.png")
    words = ["data", "overlap", "images", "root=one", "other=images", "other.root=two"]
    main(words)
    assert "1 images of the second show what the first holds" in capsys.readouterr().out
    (row,) = [json.loads(line) for line in (tmp_path / "overlap.jsonl").read_text().splitlines()]
    assert (row["first"], row["second"], row["difference"]) == ("one/32one.png", "two/32two.png", 0.0)
    (tmp_path / "mine.txt").write_text("mine")
    for wrong, complaint in (
        ([*words, "other.colour=red"], "other.colour"),
        (words[:4], "Name the dataset to compare with"),
        ([*words, "out=mine.txt"], "mine.txt: holds something else"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2 and complaint in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"
