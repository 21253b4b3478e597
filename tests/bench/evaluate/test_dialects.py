"""Every dialect against its own definition, written out once more here, on thirty constructed cases."""

import cv2
import numpy as np
import pytest
from PIL import Image

from bench.data import rle
from bench.data.dataset import ExampleDataset
from bench.evaluate.dialects import Answers, box_table, dialect_of, load_dialects, table
from bench.evaluate.metrics import SampleScore, aggregate
from bench.evaluate.scoring import score_predictions
from methods.base import Example, UserError
from methods.files import write_lines

SIZE = (20, 30)
MASK_DIALECTS = [name for name in load_dialects() if name != "lmms_eval"]


def square(x, y, side):
    return [[float(each) for each in (x, y, x + side, y, x + side, y + side, x, y + side)]]


class Cases(ExampleDataset):
    """Samples with polygons: of every kind of target, ignored region and answer."""

    def __init__(self):
        rng = np.random.default_rng(3)
        self.polygons, examples, self.answers = [], [], []
        for number in range(30):
            kind, answer = divmod(number, 6)  # five kinds of ground truth, six kinds of answers
            polygons = [] if kind == 1 else square(2.6 + number % 7, 3.7, 4.5 + number % 5)
            truth = rle.rasterize(polygons, *SIZE) if polygons else np.zeros(SIZE, bool)
            ignore = rng.random(SIZE) < 0.2 if kind in (2, 3) else None
            found = {
                0: truth, 1: np.zeros(SIZE, bool), 2: None, 3: truth & (rng.random(SIZE) < 0.7),
                4: np.roll(truth, 3, 1) | (rng.random(SIZE) < 0.02), 5: np.ones(SIZE, bool),
            }[answer]  # fmt: skip
            self.polygons.append([polygons] if polygons else [])
            self.answers.append(found)
            examples.append(
                Example(Image.new("RGB", SIZE[::-1]), (f"thing {number}",), truth, image_id=number // 2, ref_id=number,
                        ignore=ignore, dataset="cases", split="val", no_target=kind == 1)
            )  # fmt: skip
        super().__init__(examples, "cases")

    def segmentations(self, index):
        return self.polygons[index]


@pytest.fixture(scope="module")
def cases():
    return Cases()


@pytest.fixture(scope="module")
def answers(cases, tmp_path_factory):
    lines = [
        {"ref_id": number, "image_id": number // 2, "sent_id": 0, "mask": None if mask is None else rle.encode(mask)}
        for number, mask in enumerate(cases.answers)
    ]
    path = write_lines(tmp_path_factory.mktemp("cases") / "p.jsonl", lines)
    return Answers(score_predictions(path, cases), cases)


def definition(name, cases):
    """cIoU and gIoU of a project, straight from the description of its code."""
    inter = union = 0.0
    ious = []
    epsilon = {"himtok": 1e-10, "argenseg": 1e-10, "genseg": 0, "rela": 0, "unipixel": 0, "mmdet": 0}.get(name, 1e-5)
    for index, mask in enumerate(cases.answers):
        example = cases[index]
        truth, ignore = example.mask, example.ignore
        if name == "psalm" and cases.polygons[index]:
            drawn = np.zeros(SIZE, np.uint8)
            for polygon in cases.polygons[index][0]:
                cv2.fillPoly(drawn, [np.array(polygon).reshape(-1, 2).astype(np.int32)], 1)
            truth = drawn > 0
        given = np.zeros(SIZE, bool) if mask is None else mask
        if ignore is not None and name == "himtok":  # hits on both sides
            given, truth = given | ignore, truth | ignore
        elif ignore is not None:
            given, truth = given & ~ignore, truth & ~ignore
        both, either = float((given & truth).sum()), float((given | truth).sum())
        if name == "sa2va_older" and mask is None:
            ious.append(0.0)
            continue
        inter, union = inter + both, union + either
        if either == 0:
            ious.append(0.0 if name == "mmdet" or (name == "genseg" and mask is None) else 1.0)
        else:
            ious.append(0.0 if name == "genseg" and mask is None else both / (either + epsilon))
    return inter / (union + epsilon), sum(ious) / len(ious)


@pytest.mark.parametrize("name", MASK_DIALECTS)
def test_a_dialect_is_its_definition(name, cases, answers):
    rules = dialect_of(name).rules
    ciou, giou = definition(name, cases)
    assert answers.value(rules, "ciou") == pytest.approx(ciou, abs=1e-12)
    assert answers.value(rules, "giou") == pytest.approx(giou, abs=1e-12)


def test_ours_is_what_genseg_score_says(answers):
    ours = aggregate([SampleScore.from_dict(dict(row)) for row in answers.rows])
    rules = dialect_of("genseg").rules
    assert answers.value(rules, "ciou") == pytest.approx(ours["ciou"], abs=1e-12)
    assert answers.value(rules, "giou") == pytest.approx(ours["giou"], abs=1e-12)


def test_the_cases_tell_dialects_apart(cases, answers):
    """Six rules that differ give six pairs of figures; dialects with the same rules the same."""
    rows = {row["dialect"]: row for row in table(answers)}
    pairs = {name: (round(row["ciou"], 9), round(row["giou"], 9)) for name, row in rows.items()}
    apart = {pairs[name] for name in ("genseg", "himtok", "psalm", "sa2va_older", "mmdet", "lisa")}
    assert len(apart) == 6
    assert pairs["lisa"] == pairs["pixellm"] == pairs["sa2va"]
    assert "ignored pixels are hits" in rows["himtok"]["because"]
    assert "polygons are drawn by fillPoly" in rows["psalm"]["because"]
    assert "no answer is left out of cIoU" in rows["sa2va_older"]["because"]
    assert "two empty masks have IoU 0" in rows["mmdet"]["because"]
    assert rows["genseg"]["because"] == ""
    assert all(row["same_questions"] for row in rows.values())  # one sentence each: both ways ask the same


def test_changes_of_rules_add_up(answers):
    ours = dialect_of("genseg").rules
    for dialect in load_dialects().values():
        before, total = ours, 0.0
        for _, after in ours.steps(dialect.rules):
            total += answers.value(after, "giou") - answers.value(before, "giou")
            before = after
        assert before == dialect.rules
        assert total == pytest.approx(answers.value(dialect.rules, "giou") - answers.value(ours, "giou"), abs=1e-12)


def test_an_unknown_dialect_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="no dialect 'lsia' .did you mean 'lisa'"):
        dialect_of("lsia")


def test_the_scaling_that_fits_best_counts_for_lmms_eval():
    """100 x 50 pixels, the truth is the right half: pixels, thousandths, several boxes, and no box."""
    image = Image.new("RGB", (100, 50))
    truth = (50.0, 0.0, 100.0, 50.0)
    texts = ["[50, 0, 100, 50]", '{"bbox_2d": [500, 0, 1000, 1000]}', "[0, 0, 1, 1] or 50 0 100 50", "on the right"]
    dataset = ExampleDataset(
        [Example(image, ("it",), None, truth, image_id=number, ref_id=number) for number in range(4)], "boxes"
    )
    rows = [{"ref_id": number, "text": text, "box": None} for number, text in enumerate(texts)]
    found = {row["dialect"]: row for row in box_table(rows, dataset)}
    assert found["lmms_eval"]["acc@0.9"] == 0.75
    assert found["genseg"]["acc@0.9"] == 0.0  # none was read as a box in the method's own words
