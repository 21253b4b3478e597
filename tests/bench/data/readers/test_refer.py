"""The reader of REFER layouts: every form of segmentation, every way in which files can be broken."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools import mask as rle

from bench.data.readers.refer import ReferDataset
from bench.data.readers.refs import unpickle
from bench.data.rle import rasterize
from methods.base import UserError

SQUARE = [[2.0, 2.0, 10.0, 2.0, 10.0, 8.0, 2.0, 8.0]]


def encoded(mask: np.ndarray) -> dict:
    made = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(made["size"]), "counts": made["counts"].decode()}


def write(root: Path, segmentation=SQUARE, refs=None, pickled=False, **changes) -> Path:
    """A dataset of one 20 x 16 image with two objects and one referent."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), "gray").save(root / "images" / "a.png")
    image = {"id": 7, "file_name": "a.png", "width": 20, "height": 16} | changes.pop("image", {})
    instances = {
        "images": [image],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "segmentation": segmentation, "bbox": [2, 2, 8, 6], "area": 48},
            {"id": 2, "image_id": 7, "category_id": 9, "segmentation": [[12, 8, 18, 8, 18, 14, 12, 14]],
             "bbox": [12, 8, 6, 6], "area": 36},
        ],
        "categories": [{"id": 3, "name": "dog", "supercategory": "animal"},
                       {"id": 9, "name": "cat", "supercategory": "animal"}],
    }  # fmt: skip
    (root / "instances.json").write_text(json.dumps(instances))
    if refs is None:
        sentences = [{"sent": "the dog", "raw": "The dog", "tokens": ["the", "dog"], "sent_id": 50}]
        refs = [{"ref_id": 5, "ann_id": 1, "category_id": 3, "image_id": 7, "file_name": "a_1.png", "split": "val",
                 "sent_ids": [50], "sentences": sentences} | changes]  # fmt: skip
    if pickled:
        (root / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    else:
        (root / "refs(unc).json").write_text(json.dumps(refs))
    return root


# ------------------------------------------------------------------------------------------------------- reading
@pytest.mark.parametrize("pickled", [False, True])
def test_one_referent(tmp_path, pickled):
    dataset = ReferDataset(write(tmp_path, pickled=pickled), "val", name="refcoco", semantic=True)
    (example,) = dataset
    assert example.expressions == ("the dog",) and example.box == (2.0, 2.0, 10.0, 8.0)
    assert example.mask.shape == (16, 20) and example.mask.sum() == 48 and example.mask[2:8, 2:10].all()
    assert example.facts["category"] == "dog" and not example.facts["small"]
    assert example.facts["area_fraction"] == pytest.approx(48 / 320)
    assert dataset.classes == ("dog", "cat")
    assert example.semantic[3, 3] == 1 and example.semantic[10, 13] == 2 and example.semantic[0, 0] == 0
    assert dataset.by_image() == [(7, [0])]


def test_real_layout_with_a_folder_per_dataset_and_images_elsewhere(tmp_path):
    write(tmp_path / "refcoco+", pickled=True)
    (tmp_path / "refcoco+" / "images").rename(tmp_path / "train2014")
    dataset = ReferDataset(tmp_path, "val", name="refcoco+", split_by="unc", images=tmp_path / "train2014")
    assert dataset[0].image.name == "a.png" and dataset[0].dataset == "refcoco+"


def test_several_objects_and_none(tmp_path):
    sentences = [{"sent": "both animals", "sent_id": 0}]
    both = {"ref_id": 1, "ann_id": [1, 2], "image_id": 7, "split": "val", "sentences": sentences}
    nothing = {**both, "ref_id": 2, "ann_id": []}
    marked = {**both, "ref_id": 3, "ann_id": [-1]}  # gRefCOCO
    dataset = ReferDataset(write(tmp_path, refs=[both, nothing, marked]), "val")
    assert dataset[0].mask.sum() == 48 + 36 and dataset[0].box == (2.0, 2.0, 18.0, 14.0)
    for example in (dataset[1], dataset[2]):
        assert not example.mask.any() and example.mask.shape == (16, 20) and example.box is None
        assert not example.facts["small"]
    view = dataset.with_targets()
    assert [example.ref_id for example in view] == [1] and view.by_image() == [(7, [0])] and len(dataset) == 3
    assert view.with_targets() is view


def test_refmoji_is_read_whole(easy_root):
    dataset = ReferDataset(easy_root, "val", semantic=True)
    assert len(dataset) == 350
    groups = dataset.by_image()
    assert sorted(index for _, indices in groups for index in indices) == list(range(350))
    for example in [dataset[index] for index in range(0, 350, 25)]:
        rows, columns = example.mask.nonzero()
        assert example.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        facts = example.facts
        assert len(facts["style"]) == len(facts["kind"]) == len(facts["distractors"]) == len(example.expressions)
        classes = np.unique(example.semantic[example.mask])
        assert len(classes) == 1 and dataset.classes[classes[0] - 1] == facts["category"]
    only = ReferDataset(easy_root, "val", styles=["refcoco+"])
    assert 0 < len(only) < 350 and set(only[0].facts["style"]) == {"refcoco+"}
    assert len(ReferDataset(easy_root, "val", limit=5)) == 5


# -------------------------------------------------------------------------------------------------- segmentations
@settings(max_examples=60, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)))
def test_every_form_of_rle_gives_the_mask_back(mask):
    height, width = mask.shape
    whole = encoded(mask)
    runs = np.flatnonzero(np.diff(np.concatenate([[False], mask.ravel(order="F")]))).tolist()
    counts = np.diff([0, *runs, mask.size]).tolist()
    halves = [mask & (np.arange(width) % 2 == side) for side in (0, 1)]
    for form in (whole, [whole], {"size": [height, width], "counts": counts}, [encoded(half) for half in halves],
                 {**whole, "counts": whole["counts"].encode()}):  # fmt: skip
        assert np.array_equal(rasterize(form, height, width), mask)


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet=[chr(code) for code in range(40, 120)], max_size=12))
def test_broken_counts_are_refused_or_cover_the_image(counts):
    try:
        assert rasterize({"size": [6, 5], "counts": counts}, 6, 5).shape == (6, 5)
    except ValueError:
        pass


def test_polygons_are_united_as_pycocotools_does():
    polygons = [[1.5, 1.5, 9, 2, 7, 9], [5, 5, 15, 5, 15, 12, 5, 12]]
    expected = np.any([rle.decode(rle.frPyObjects([polygon], 16, 20))[..., 0] for polygon in polygons], axis=0)
    assert np.array_equal(rasterize(polygons, 16, 20), expected)


# -------------------------------------------------------------------------------------------------------- errors
def fails(root: Path, message: str, split: str = "val", **options) -> None:
    with pytest.raises(UserError, match=message) as caught:
        list(ReferDataset(root, split, **options))
    assert "\n" not in str(caught.value)


def test_missing_files(tmp_path):
    fails(tmp_path, r"has no refs\(<split_by>\)")
    write(tmp_path)
    fails(tmp_path, r"has no refs\(umd\)", split_by="umd")
    (tmp_path / "images" / "a.png").unlink()
    fails(tmp_path, "a.png: missing image of referent 5")
    (tmp_path / "instances.json").unlink()
    fails(tmp_path, "instances.json: cannot be read")


def test_several_refs_files_must_be_chosen_from(tmp_path):
    write(tmp_path)
    (tmp_path / "refs(google).p").write_bytes(pickle.dumps([]))
    fails(tmp_path, r"several refs files .*; choose with split_by=google or split_by=unc")
    assert len(ReferDataset(tmp_path, "val", split_by="unc")) == 1


def test_unknown_split_and_style(tmp_path):
    fails(write(tmp_path), r"has no split 'testA'; it has val \(1\)", split="testA")
    fails(tmp_path, "no sentence of split 'val' has a style of", styles=["refcoco"])
    fails(tmp_path, "semantic='depth' is unknown", semantic="depth")


def test_class_maps_need_sizes_and_kinds(tmp_path):
    data = json.loads((write(tmp_path) / "instances.json").read_text())
    del data["annotations"][0]["area"]
    (tmp_path / "instances.json").write_text(json.dumps(data))
    assert ReferDataset(tmp_path, "val")[0].semantic is None
    fails(tmp_path, "annotation .* has no usable area; correct it or leave it out", semantic=True)
    del data["categories"][0]["supercategory"]
    (tmp_path / "instances.json").write_text(json.dumps(data))
    fails(tmp_path, "category .* has no usable supercategory", semantic="supercategory")


def test_images_that_are_not_opened(tmp_path):
    dataset = ReferDataset(write(tmp_path), "val", opens_images=False)
    (tmp_path / "images" / "a.png").unlink()
    assert dataset.image_paths() == [tmp_path / "images/a.png"]
    assert dataset[0].image == (tmp_path / "images/a.png").resolve()
    data = json.loads((tmp_path / "instances.json").read_text())
    data["images"][0]["file_name"] = "../a.png"
    (tmp_path / "instances.json").write_text(json.dumps(data))
    fails(tmp_path, "which leaves", opens_images=False)


def test_broken_json_and_entries(tmp_path):
    write(tmp_path)
    (tmp_path / "refs(unc).json").write_text("[{")
    fails(tmp_path, r"refs\(unc\).json: not valid JSON")
    fails(write(tmp_path, refs={"a": 1}), "holds a dict, not a list")
    fails(write(tmp_path, refs=[{"ref_id": 1, "split": "val"}]), "entry 0 is no referent")
    write(tmp_path)
    (tmp_path / "instances.json").write_text('{"images": []}')
    fails(tmp_path, "instances.json: not COCO instances")


def test_ids_that_do_not_match(tmp_path):
    fails(write(tmp_path, ann_id=99), "referent 5 names annotation 99")
    fails(write(tmp_path, image_id=8), "referent 5 names image 8")
    fails(write(tmp_path, image_id=[7]), "entry 0 is no referent")


def test_images_that_are_links_are_followed(tmp_path):
    dataset = ReferDataset(write(tmp_path), "val")
    image = tmp_path / "images" / "a.png"
    image.rename(tmp_path / "stored.png")
    image.symlink_to(tmp_path / "stored.png")
    assert dataset[0].image == image


def test_two_annotations_of_one_id_are_refused(tmp_path):
    data = json.loads((write(tmp_path) / "instances.json").read_text())
    data["annotations"][1]["id"] = 1
    (tmp_path / "instances.json").write_text(json.dumps(data))
    fails(tmp_path, "several annotations have the id 1; give each its own number")


def test_two_referents_of_one_id_are_refused(tmp_path):
    refs = json.loads((write(tmp_path) / "refs(unc).json").read_text())
    fails(write(tmp_path, refs=refs * 2), "several referents of split 'val' have the ref_id 5")


def test_a_path_may_not_leave_the_images(tmp_path):
    Image.new("RGB", (20, 16)).save(tmp_path / "secret.png")
    fails(write(tmp_path, image={"file_name": "../secret.png"}), "leaves .*images; correct the path")
    fails(write(tmp_path, image={"file_name": str(tmp_path / "secret.png")}), "leaves .*images; correct the path")


def test_masks_of_another_size(tmp_path):
    fails(write(tmp_path, segmentation=encoded(np.ones((8, 8)))), r"RLE of size \[8, 8\] for an image of \[16, 20\]")
    fails(write(tmp_path, segmentation=encoded(np.ones((8, 8))) | {"size": []}), r"RLE of size \[\] for an image")
    fails(write(tmp_path, segmentation={"size": [16, 20], "counts": [3, 4]}), "add up to 7 of 320 pixels")
    fails(write(tmp_path, segmentation=[[1, 2, 3, 4]]), "a polygon needs at least three points")
    fails(write(tmp_path, segmentation=[]), "neither polygons nor RLE")


@pytest.mark.parametrize("value", ["null", "NaN", "3e8", "-1e999", "1" + "0" * 400, '"4"', "[]"])
def test_polygons_with_coordinates_that_pycocotools_cannot_take(tmp_path, value):
    write(tmp_path, segmentation=[[2.0, 2.0, 10.0, 2.0, 10.0, "VALUE"]])
    path = tmp_path / "instances.json"
    path.write_text(path.read_text().replace('"VALUE"', value))
    fails(tmp_path, "annotation 1 of referent 5 has an unusable segmentation .a coordinate .* is no number or far out")


@pytest.mark.parametrize("counts", [[-1, 321], [160.5, 159.5], [None, 320]])
def test_runs_that_are_no_counts(tmp_path, counts):
    fails(write(tmp_path, segmentation={"size": [16, 20], "counts": counts}), "no whole number from 0 on")


def test_a_count_of_too_many_characters(tmp_path):
    fails(write(tmp_path, segmentation={"size": [16, 20], "counts": "P" * 7 + "0"}), "a number that is too long")


@pytest.mark.parametrize(
    ("kind", "key", "values"),
    [
        ("image", "file_name", [None, 1.5]),
        ("image", "height", [None, 0, "16", 1e9]),
        ("annotation", "bbox", [None, [1, 2], [1, 2, 3, None], [1, 2, 3, 3e8]]),
        ("annotation", "category_id", [None, []]),
        ("category", "name", [None, {}]),
    ],
)
def test_records_without_a_usable_field(tmp_path, kind, key, values):
    path = write(tmp_path) / "instances.json"
    whole = json.loads(path.read_text())
    record = whole[{"category": "categories"}.get(kind, f"{kind}s")][0]
    del record[key]
    for value in ("missing", *values):
        if value != "missing":
            record[key] = value
        path.write_text(json.dumps(whole))
        fails(tmp_path, f"instances.json: {kind} {record['id']} has no usable {key}; correct it or leave it out")


def test_a_file_that_is_no_image(tmp_path):
    write(tmp_path)
    (tmp_path / "images" / "a.png").write_text("no image")
    fails(tmp_path, "a.png: unreadable image of referent 5")


class Malicious:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        import os

        return os.system, ("touch /tmp/must-not-exist",)


def test_a_pickle_may_hold_builtins_only(tmp_path):
    write(tmp_path, refs=[Malicious()], pickled=True)
    fails(tmp_path, r"refs\(unc\).p: asks for posix.system, but may hold builtin values only")
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([np.int64(1)]))
    fails(tmp_path, "asks for numpy")
    (tmp_path / "refs(unc).p").write_bytes(b"cbuiltins\neval\n(S'1'\ntR.")
    fails(tmp_path, "asks for builtins.eval")
    (tmp_path / "refs(unc).p").write_bytes(b"\x80\x02garbage")
    fails(tmp_path, "not a readable pickle|asks for")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8),
       st.integers(0, 5))  # fmt: skip
def test_builtin_values_survive_a_pickle(value, protocol):
    assert unpickle(pickle.dumps(value, protocol), Path("x.p")) == value
