"""Reference runs of released evaluations, repeated; and the comparison itself, which must be able to fail.

goldens/argenseg_evaluation: a tiny checkpoint in the official layout and what the released scripts made of it.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench.data import rle
from bench.evaluate import official_checks as compare
from bench.evaluate.official_checks import Answered
from bench.evaluate.official_runs import Command, check, recognises
from methods.base import Example, Prediction, Request, UserError

LINES = ["python", "eval/evaluate_referseg.py", "--datasets", "grefcoco_testA", "--max-num", "6"]


def test_released_runs_are_repeated(goldens):
    """Masks, boxes, and a letterbox, through the readers, the runner and the scores of every evaluation."""
    folder = goldens / "argenseg_evaluation"
    assert recognises(folder)
    checks = check(folder)
    assert [each for each in checks if not each.ok] == []
    assert {each.name.partition(": ")[0] for each in checks} == {
        "grefcoco_val", "rec_refcoco_val", "val_tiles_pad2square",
    }  # fmt: skip
    names = [each.name.partition(": ")[2] for each in checks]
    assert names.count("generated ids") == 3
    assert names.count("masks, pixels that differ") == 2
    assert names.count("printed Precision @ 1") == 1


def test_a_model_that_is_not_the_references_is_told(goldens, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(goldens / "argenseg_evaluation", folder)
    facts = json.loads((folder / "vq_vae.json").read_text())
    (folder / "vq_vae.json").write_text(json.dumps(facts | {"seed": facts["seed"] + 1}))
    with pytest.raises(UserError, match="is not the reference's"):
        check(folder)


def test_other_folders_are_not_taken_for_runs(goldens, tmp_path):
    assert not any(recognises(folder) for folder in (tmp_path, goldens / "argenseg", goldens / "himtok"))


# ---- commands -------------------------------------------------------------------------------------------------------


def test_a_command_says_how_was_asked():
    command = Command.of(LINES)
    assert (command.script.task, command.script.reader) == ("segment", "psalm")
    assert (command.rule("himtok").tiles, command.rule("himtok").letterbox) == (6, False)
    padded = Command.of(["eval/refcoco_seg/referring_segmentation.py", "--pad2square", "True"])
    assert (padded.rule("argenseg").tiles, padded.rule("argenseg").letterbox) == (1, True)


def test_some_scripts_cut_no_tiles_unless_they_are_told_to():
    words = ["eval/evaluate_grounding.py", "--datasets", "refcoco_val", "--max-num", "6"]
    assert [Command.of(each).rule("himtok").tiles for each in (words, [*words, "--dynamic"])] == [1, 6]


def test_a_command_says_what_was_read(tmp_path):
    folder = tmp_path / "data" / "res" / "grefcoco"
    folder.mkdir(parents=True)
    (tmp_path / "data" / "coco" / "train2014").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(tmp_path / "data" / "coco" / "train2014" / "a.png")
    item = {
        "image_info": {"file_name": "a.png", "height": 6, "width": 8}, "instruction": [{"sent": "it"}], "anns": [],
    }  # fmt: skip
    (folder / "grefcoco_testA.json").write_text(json.dumps([item]))
    dataset = Command.of(LINES).dataset(tmp_path)
    assert [(e.expressions, e.mask.shape, e.no_target) for e in dataset] == [(("it",), (6, 8), True)]


def test_an_unknown_script_is_refused():
    with pytest.raises(UserError, match="no known script"):
        Command.of(["python", "eval/evaluate_pope.py"])


# ---- the comparison -------------------------------------------------------------------------------------------------


@pytest.fixture
def answered():
    """An answer that agrees: the left half of a mask whose truth is all of it."""
    mask, truth = np.zeros((4, 6), bool), np.ones((4, 6), bool)
    mask[:, :3] = True
    told = {
        "mask": rle.encode(mask), "gt": rle.encode(truth), "I": 12, "U": 24, "near_threshold_1e-4": 1,
        "generated_ids": [5, 7], "question": "<image>\nWhat?", "input_ids": [1, [9, 3], 2], "tiles": 2,
        "pixel_sum": 0.0,
    }  # fmt: skip
    image = Image.new("RGB", (6, 4))
    prediction = Prediction(mask, np.zeros((8, 8), np.float32), written=(5, 7))
    line = {"mask": rle.encode(mask), "box": None}
    return Answered(told, line, Request(image, ("it",)), prediction, Example(image, ("it",), truth))


def verdicts(checks) -> dict[str, bool]:
    return {each.name: each.ok for each in checks}


def test_what_agrees_agrees(answered):
    inputs = [("What?", [1, 9, 9, 9, 2], np.zeros((2, 3, 4, 4)))]
    found = [
        *compare.asked(lambda request: inputs, [answered]), *compare.written([answered], None),
        *compare.masks([answered], np.zeros((1, 2, 2)), False),
        *compare.figures({"printed": ["cIoU: 0.5000", "gIoU: 0.5"]}, {"ciou": 0.5, "giou": 0.5}, {}, [answered]),
    ]  # fmt: skip
    assert set(verdicts(found).values()) == {True}
    assert len(found) == 4 + 1 + 4 + 4


@pytest.mark.parametrize(
    ("text", "ids", "pixels", "wrong"),
    [
        ("What ?", [1, 9, 9, 9, 2], np.zeros((2, 3, 4, 4)), "questions"),
        ("What?", [1, 9, 9, 2], np.zeros((2, 3, 4, 4)), "input ids"),
        ("What?", [1, 9, 9, 9, 2], np.zeros((1, 3, 4, 4)), "tiles"),
        ("What?", [1, 9, 9, 9, 2], np.ones((2, 3, 4, 4)), "sum of the pixels"),
    ],
)
def test_another_prompt_differs(answered, text, ids, pixels, wrong):
    found = verdicts(compare.asked(lambda request: [(text, ids, pixels)], [answered]))
    assert [name for name, ok in found.items() if not ok] == [wrong]


def test_other_ids_differ(answered):
    other = replace(answered, prediction=replace(answered.prediction, written=(5, 8), token_ids=(1, 2)))
    found = verdicts(compare.written([other], np.array([[1, 3]])))
    assert found == {"generated ids": False, "ids of the masks": False}


@pytest.mark.parametrize(("pixels", "ok"), [(0, True), (1, True), (2, False)])
def test_only_pixels_at_the_threshold_may_differ(answered, pixels, ok):
    mask = answered.prediction.mask.copy()
    mask[:pixels, 3] = True
    line = {"mask": rle.encode(mask), "box": None}
    other = replace(answered, prediction=replace(answered.prediction, mask=mask), line=line)
    found = verdicts(compare.masks([other], None, False))
    assert found["masks, pixels that differ"] == ok
    assert found["intersections and unions"] == ok
    assert found["ground truth"]


def test_soft_masks_and_truths_that_differ(answered):
    truth = ~answered.example.mask
    found = verdicts(
        compare.masks([replace(answered, example=replace(answered.example, mask=truth))], np.ones((1, 2, 2)), False)
    )
    assert (found["ground truth"], found["soft masks"]) == (False, False)


def test_boxes_that_differ(answered):
    sample = {"box": [0, 0, 2, 2], "box_iou": 1.0}
    right = replace(
        answered, sample=sample, line={"box": [0, 0, 2, 2]}, example=replace(answered.example, box=(0, 0, 2, 2))
    )
    assert set(verdicts(compare.boxes([right])).values()) == {True}
    assert set(verdicts(compare.boxes([replace(right, line={"box": None})])).values()) == {False}


@pytest.mark.parametrize(
    ("line", "ok"),
    [("cIoU: 0.5000", True), ("ciou 0.500", True), ("cIoU: 0.5002", False), ("gIoU: 0.2500", True),
     ("no figure", False), ("Precision @ 1 (0.5): 0.8", True), ("Precision @ 1 (0.7): 0.8", False)],
)  # fmt: skip
def test_printed_figures(answered, line, ok):
    ours = {"ciou": 0.5, "giou": 0.25, "acc@0.5": 0.8, "acc@0.7": 0.7}
    sample = {"box": [0, 0, 1, 1]}
    (found,) = compare.figures({"printed": [line]}, ours, {}, [replace(answered, sample=sample)])
    assert found.ok == ok


def test_figures_are_compared_unrounded(answered):
    row = {"printed": [], "returned_giou_ciou": [0.25, 0.5]}
    found = verdicts(compare.figures(row, {"ciou": 0.50001, "giou": 0.25}, {}, [answered]))
    assert found == {"giou, unrounded": True, "ciou, unrounded": False}
