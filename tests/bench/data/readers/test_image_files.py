"""Images by the names of annotation files: where they are found, and in which frame they are."""

import numpy as np
import pytest
from PIL import Image

from bench.data.readers.image_files import ImageFiles
from methods.base import UserError
from methods.images import open_image


@pytest.fixture
def turned(tmp_path):
    """A folder with x.jpg: stored as 30 x 20 pixels, whose left third is white, to be shown turned by a right angle."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "x.jpg", exif=exif, quality=95)
    return tmp_path


def test_an_image_is_read_as_its_annotations_saw_it(turned):
    shown, stored, other, free = (ImageFiles(turned) for _ in range(4))
    assert shown.open("x.jpg", (30, 20), "s") == turned / "x.jpg" and shown.remarks(1) == []
    image = stored.open("x.jpg", (20, 30), "s")
    assert image.size == (30, 20) and open_image(image).size == (30, 20)
    assert np.asarray(image)[:, :8].min() > 200 and np.asarray(image)[:, 12:].max() < 50
    assert stored.remarks(2) == ["the EXIF orientation of 1 of 2 images is ignored, as their annotations do (x.jpg)"]
    assert stored.other_size("x.jpg") is None and shown.other_size("x.jpg") is None
    assert other.open("x.jpg", (15, 10), "s").size == (10, 15) and other.other_size("x.jpg") == (30, 20)
    assert np.asarray(other.open("x.jpg", (15, 10), "s"))[:4].min() > 200  # upright, then resized
    assert other.open("x.jpg", (15, 10), "s") is other.open("x.jpg", (15, 10), "t")
    assert other.remarks(1)[0].endswith("resized to it (x.jpg: 20x30, recorded 10x15)")
    assert free.frame("x.jpg", None, "s") == (30, 20) and free.open("x.jpg", None, "s") == turned / "x.jpg"


def test_the_longest_end_of_a_path_counts(tmp_path):
    for place in ("coco/train2014", "train2014"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (3, 2)).save(tmp_path / place / "x.png")
    files = ImageFiles(tmp_path)
    assert files.look("data/coco/train2014/x.png", (2, 3), "s") == tmp_path / "coco/train2014/x.png"
    assert files.look("else/train2014/x.png", (2, 3), "s") == tmp_path / "train2014/x.png"
    with pytest.raises(UserError, match=r"train2014/y.png: missing image of s; download it"):
        files.look("data/train2014/y.png", (2, 3), "s")


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/passwd", "a\0b"])
def test_no_name_leads_out(tmp_path, name):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="s names the file .*, which leaves .*in; correct the path"):
        ImageFiles(tmp_path / "in").path(name, "s")


def test_files_that_are_not_opened(tmp_path):
    files = ImageFiles(tmp_path, opens=False)
    assert files.open("a/x.png", (2, 3), "s") == tmp_path / "a/x.png" and files.remarks(1) == []
