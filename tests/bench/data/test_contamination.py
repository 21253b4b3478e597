"""An image that is evaluated on is not trained on, unless the profile says so."""

import json
from pathlib import Path

import pytest
import torch

from bench.config import load_profile
from bench.data import contamination
from bench.data.contamination import refuse_contamination
from bench.data.mixture import open_mixture
from bench.train.stages import train_stage
from methods.base import UserError

PROFILE = """
name: own
data:
  dataset: refcoco
  root: refer
  images: coco
  mixture:
    refcocog: {weight: 1}
    words: {dataset: captions, root: text, weight: 1}
    plain: {dataset: images, root: folder, tasks: {segment: 1.0}, weight: 1}
stages:
  both: {method: himtok, stage: tune, steps: 1, tasks: {segment: 0.5, choose: 0.1, caption: 0.4}}
  masks: {method: himtok, stage: tune, steps: 1, tasks: {segment: 1.0}, mixture: {refcocog: 1}}
"""


def coco(number: int) -> str:
    return f"COCO_train2014_{number:012d}.jpg"


def write(name: str, split_by: str, images: dict[str, str]) -> None:
    """A dataset without images: file name -> split."""
    folder = Path("refer") / name
    folder.mkdir(parents=True, exist_ok=True)
    ids = {file: 100 * len(name) + i for i, file in enumerate(images)}  # of its own
    box = {"category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]], "bbox": [0, 0, 4, 4], "area": 8}
    (folder / "instances.json").write_text(json.dumps({
        "images": [{"id": i, "file_name": file, "width": 9, "height": 9} for file, i in ids.items()],
        "annotations": [{"id": i, "image_id": i} | box for i in ids.values()],
        "categories": [{"id": 1, "name": "dog"}],
    }))  # fmt: skip
    (folder / f"refs({split_by}).json").write_text(json.dumps([
        {"ref_id": i, "ann_id": i, "image_id": i, "split": images[file], "sentences": [{"sent": "it"}]}
        for file, i in ids.items()
    ]))  # fmt: skip


@pytest.fixture
def check(tmp_path, monkeypatch):
    """check(stage, override, ...): RefCOCO's splits hold 1 to 5, RefCOCOg trains on 11 and 12."""
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(PROFILE)
    write("refcoco", "unc", {coco(1): "train", coco(2): "val", coco(3): "testA", coco(4): "testB", coco(5): "testB"})
    write("refcocog", "umd", {coco(11): "train", coco(12): "train", coco(2): "val"})
    captions([coco(13)])
    Path("folder").mkdir()
    Path("folder/a.png").touch()

    def checked(stage: str, *words: str) -> None:
        profile = load_profile("own.yaml", words)
        refuse_contamination(profile, open_mixture(profile, profile.stages[stage]))

    return checked


def captions(files: list[str]) -> None:
    Path("text").mkdir(exist_ok=True)
    record = {"split": "train", "kind": "caption", "question": "What?", "answer": "A dog."}
    records = [record | {"image_id": i, "file_name": file} for i, file in enumerate(files)]
    Path("text/captions.json").write_text(json.dumps(records))


def refusal(check, *words) -> str:
    with pytest.raises(UserError) as caught:
        check(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_disjoint_images_pass_without_being_opened(check):
    check("both")
    check("masks")


def test_the_same_image_in_another_dataset_is_refused_until_the_profile_allows_it(check):
    write("refcocog", "umd", {coco(1): "train", coco(2): "train", coco(4): "train", coco(5): "train"})
    assert refusal(check, "masks") == (
        "3 training images of refcocog are in evaluation splits of refcoco (1 in val, 2 in testB), such as "
        f"coco/{coco(2)}; leave them out, or set data.allow_contamination=true to train on them."
    )
    check("masks", "data.allow_contamination=true")


def test_lists_of_captions_and_folders_are_looked_through_too(check):
    captions(["coco/train2017/000000000003.jpg", coco(4)])  # COCO's number, whatever stands before it
    Path("folder/below").mkdir()
    Path("folder/below/000000000002.jpg").touch()
    told = refusal(check, "both")
    assert "3 training images of words, plain are in" in told
    assert "(1 in testA, 1 in testB, 1 in val)" in told
    check("masks")  # which takes nothing of them


def test_a_name_without_cocos_number_is_known_by_its_path(check):
    write("refcoco", "unc", {"a.png": "val"})
    write("refcocog", "umd", {"a.png": "train"})
    assert "1 training images of refcocog" in refusal(check, "masks")
    check("masks", "data.mixture.refcocog.images=other", "data.mixture.refcocog.root=refer")  # another image


def test_one_dataset_alone_is_compared_with_its_own_splits(check):
    Path("own.yaml").write_text(PROFILE[: PROFILE.index("  mixture:")] + PROFILE[PROFILE.index("stages:") :]
                                .replace(", mixture: {refcocog: 1}", ""))  # fmt: skip
    check("masks")
    write("refcoco", "unc", {coco(1): "train", f"{1:012d}.jpg": "val"})
    assert "1 training images of refcoco are in evaluation splits of refcoco (1 in val)" in refusal(check, "masks")


def test_without_annotations_there_is_nothing_to_compare(check):
    for path in Path("refer/refcoco").iterdir():
        path.unlink()
    write("refcocog", "umd", {coco(2): "train"})
    check("masks")


def test_every_dataset_that_is_evaluated_on_is_looked_through(check):
    write("refcoco+", "unc", {coco(12): "testA"})
    told = r"1 training images of refcocog are in evaluation splits of refcoco, refcoco\+"
    with pytest.raises(UserError, match=told):
        check("masks", "evaluate.datasets={refcoco: {}, refcoco+: {}}")
    check("masks", "evaluate.datasets={refcoco: {}}")


def test_the_embedded_dataset_is_not_read(check, squares, monkeypatch):
    monkeypatch.setattr(contamination, "open_split", lambda *given, **options: pytest.fail("read"))
    check("masks", "data.dataset=refmoji")


def test_a_stage_is_refused_before_anything_is_made(check):
    write("refcocog", "umd", {coco(2): "train"})
    with pytest.raises(UserError, match="set data.allow_contamination=true"):
        train_stage(load_profile("own.yaml"), "masks", "", torch.device("cpu"))
    assert {path.name for path in Path("runs").rglob("*") if path.is_file()} == {".lock"}
