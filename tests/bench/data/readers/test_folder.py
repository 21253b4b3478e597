"""A plain folder of images as a dataset."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.data.cards import load_card, open_dataset
from bench.data.readers.folder import SUFFIXES, FolderDataset
from methods.base import UserError

PLACES = ("b.png", "a/z.JPG", "a/b/c.webp", "a.jpeg")


@pytest.fixture
def root(tmp_path):
    for place in PLACES:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(tmp_path / place, "PNG")
    for place in ("a/notes.txt", ".hidden.png", "a/._z.JPG", ".git/d.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("no image")
    return tmp_path


def test_every_image_below_is_found_in_the_order_of_paths(root):
    dataset = open_dataset("images", root)
    assert [example.ref_id for example in dataset] == sorted(PLACES)
    assert [example.image for example in dataset] == [root / place for place in sorted(PLACES)]
    assert dataset.by_image() == [(place, [i]) for i, place in enumerate(sorted(PLACES))]
    assert (len(dataset), list(dataset.texts())) == (4, [])
    example = dataset[0]
    assert (example.mask, example.box, example.expressions, example.dataset) == (None, None, ("",), "images")


def test_what_other_readers_are_told_means_nothing(root):
    dataset = open_dataset("images", root, "train", images="elsewhere", semantic=False)
    assert len(dataset) == 4


def test_all_images_are_for_training():
    assert list(load_card("images").splits) == ["train"]
    with pytest.raises(UserError, match="has no split 'val'"):
        open_dataset("images", "somewhere", "val")


def test_links_that_lead_in_a_circle_end(root):
    (root / "a" / "again").symlink_to(root, target_is_directory=True)
    assert len(FolderDataset(root, "train")) == 4


def test_what_is_no_folder_of_images_is_named(tmp_path):
    with pytest.raises(UserError, match="gone: no such folder; give data.root"):
        open_dataset("images", tmp_path / "gone")
    (tmp_path / "readme.txt").write_text("no image")
    with pytest.raises(UserError, match=r"no image in it or below; put files there that end in \.png"):
        open_dataset("images", tmp_path)


@given(st.sets(st.text("abAB0-_ ", min_size=1, max_size=6), min_size=1, max_size=8), st.sampled_from(SUFFIXES))
def test_the_order_depends_on_names_alone(tmp_path_factory, names, suffix):
    """Files made in any order are read in one."""
    found = []
    for order in (sorted(names), sorted(names, reverse=True)):
        folder = tmp_path_factory.mktemp("images")
        for name in order:
            (folder / f"{name}{suffix}").touch()
        found.append(FolderDataset(folder, "train").paths)
    assert found[0] == found[1] == sorted(f"{name}{suffix}" for name in names)
