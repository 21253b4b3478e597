"""How other projects score the same masks: their rules as data, defects included and named. Needs no torch.

cIoU and gIoU have a dozen definitions, which differ in what an empty or a missing mask is worth, what ignored pixels
count, how polygons become pixels, and a number that is added to unions. `dialects.yaml` says what each project does,
and `Rules.steps` how one becomes another, a rule at a time, so that a difference can be divided among the rules.

Legend: N samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench.data import rle
from bench.data.boxes import box_iou
from bench.data.dataset import Dataset
from bench.evaluate.answers import id_key
from methods.base import Example, UserError
from methods.files import fill, nearest, setting
from methods.images import open_image

FILE = Path(__file__).with_name("dialects.yaml")
OURS = "genseg"
THRESHOLDS = (0.5, 0.7, 0.9)
NUMBER = r"(-?\d+(?:\.\d+)?)"
FOUR_NUMBERS = re.compile(r"\s*[,\s]\s*".join([NUMBER] * 4))
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rules:
    """What decides cIoU and gIoU of given masks.

    ignored: pixels without ground truth are "excluded", or count as "hits". raster: polygons are drawn by pycocotools
    ("rle"), or by OpenCV on vertices cut to whole numbers ("fill_poly"). missing: an answer without a mask is
    "wrong" even where nothing is to be found (ours), an "empty" mask, or "skipped" (left out of cIoU, IoU 0).
    empty: IoU of two empty masks. epsilon: added to every union, and to their sum.
    """

    ignored: str = setting("excluded", choices=("excluded", "hits"))
    raster: str = setting("rle", choices=("rle", "fill_poly"))
    missing: str = setting("empty", choices=("wrong", "empty", "skipped"))
    empty: float = setting(1.0, 0, 1)
    epsilon: float = setting(0.0, 0, 1)

    def steps(self, other: Rules) -> Iterator[tuple[str, Rules]]:
        """From these rules to others: (the rule that changed, the rules from there on)."""
        rules = self
        for each in fields(Rules):
            if getattr(rules, each.name) != getattr(other, each.name):
                rules = replace(rules, **{each.name: getattr(other, each.name)})
                yield each.name, rules


@dataclass(frozen=True)
class Dialect:
    """One project's way of scoring. title: its name. sentences: how it asks about a sample ("each" or all "joined").
    rules: of masks; boxes: of REC, "annotated" (as written) or "best_scaling". note: what else is to be known."""

    title: str
    sentences: str = setting("each", choices=("each", "joined"))
    rules: Rules = Rules()
    boxes: str = setting("annotated", choices=("annotated", "best_scaling"))
    note: str = ""


@cache
def load_dialects() -> dict[str, Dialect]:
    """Name -> dialect, of the file beside this one."""
    rows = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {name: fill(Dialect, row, f"{FILE}: {name}", "see Dialect") for name, row in rows.items()}


def dialect_of(name: str) -> Dialect:
    """Raises UserError for an unknown one."""
    known = load_dialects()
    if name not in known:
        raise UserError(f"There is no dialect {name!r}{nearest(name, known)}; choose one of {', '.join(known)}.")
    return known[name]


class Answers:
    """Lines of scores of one file beside their ground truth, which is decoded once.

    rows: of `scoring.score_predictions`, and of questions without an answer. missing: bool [N], no mask was answered.
    """

    def __init__(self, rows: Sequence[Row], dataset: Dataset):
        self.rows, self.dataset = list(rows), dataset
        self.places = {id_key(dataset.info(index).ref_id): index for index in range(len(dataset))}
        self.missing = np.array(
            [row.get("failure") is not None and not row.get("token_ids") for row in self.rows], bool
        )
        self._counts: dict[tuple[str, str], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, row: Row) -> int:
        """The index of a line's sample."""
        return self.places[id_key(row["ref_id"])]

    def counts(self, rules: Rules) -> np.ndarray:
        """int64 [2, N], intersections and unions in pixels."""
        key = (rules.ignored, rules.raster)
        if key not in self._counts:
            truths = (truth_of(self.dataset, self.place(row), rules.raster) for row in self.rows)
            pairs = [overlap(row["mask"], *truth, rules.ignored) for row, truth in zip(self.rows, truths, strict=True)]
            self._counts[key] = np.array(pairs, np.int64).reshape(-1, 2).T
        return self._counts[key]

    def value(self, rules: Rules, metric: str, rows: Sequence[int] | None = None) -> float:
        """`ciou` or `giou` under these rules, of some of the lines (all)."""
        chosen = slice(None) if rows is None else list(rows)
        inter, union = self.counts(rules)[:, chosen]
        return figures(inter, union, self.missing[chosen], rules)[metric]


def figures(inter: np.ndarray, union: np.ndarray, missing: np.ndarray, rules: Rules) -> dict[str, float]:
    """cIoU and gIoU of intersections and unions in pixels, [N]; NaN over nothing. missing: bool [N]."""
    inter, union = inter.astype(float), union.astype(float)
    ious = np.where(union == 0, rules.empty, inter / np.where(union == 0, 1.0, union + rules.epsilon))
    if rules.missing != "empty":
        ious = np.where(missing, 0.0, ious)
    if rules.missing == "skipped":
        inter, union = inter * ~missing, union * ~missing
    below = union.sum() + rules.epsilon
    return {
        "ciou": float(inter.sum() / below) if below else float("nan"),
        "giou": float(ious.mean()) if len(ious) else float("nan"),
    }


def overlap(
    code: Mapping[str, Any] | None, truth: np.ndarray, ignore: np.ndarray | None, ignored: str
) -> tuple[int, int]:
    """Intersection and union in pixels of a mask (run lengths; None is an empty one) with the ground truth bool [H, W];
    ignored: as in `Rules`."""
    mask = np.zeros_like(truth) if code is None else rle.decode(code)
    if ignore is not None:
        hits = ignored == "hits"
        mask, truth = (mask | ignore, truth | ignore) if hits else (mask & ~ignore, truth & ~ignore)
    return int((mask & truth).sum()), int((mask | truth).sum())


def truth_of(dataset: Dataset, index: int, raster: str = "rle") -> tuple[np.ndarray, np.ndarray | None]:
    """A sample's ground truth and its ignored pixels, bool [H, W]; raster: as in `Rules`."""
    example = dataset[index]
    if example.mask is None:
        raise UserError(f"{dataset.name}: sample {example.ref_id} has no mask to be scored by.")
    parts = dataset.segmentations(index) if raster == "fill_poly" else ()
    return rle.fill_polygons(parts, *example.mask.shape) if parts else example.mask, example.ignore


def table(answers: Answers) -> list[dict[str, Any]]:
    """A row for each dialect of masks: its name, `ciou` and `giou`, how far either lies above ours, and what makes the
    difference. `same_questions`: whether it asks about sentences as these answers do."""
    known = load_dialects()
    ours = known[OURS].rules
    joined = all(row["sent_id"] == -1 for row in answers.rows)
    found = []
    for name, dialect in known.items():
        if dialect.boxes != "annotated":
            continue  # scores boxes alone
        row: dict[str, Any] = {"dialect": name, "title": dialect.title, "sentences": dialect.sentences}
        row["same_questions"] = (dialect.sentences == "joined") == joined or all(
            len(answers.dataset.info(answers.place(each)).positions) == 1 for each in answers.rows
        )
        for metric in ("ciou", "giou"):
            row[metric] = answers.value(dialect.rules, metric)
            row[f"{metric}_above"] = row[metric] - answers.value(ours, metric)
        row["because"] = ", ".join(_reasons(answers, ours, dialect.rules))
        found.append(row | {"note": dialect.note})
    return found


WORDS = {
    "ignored": {"hits": "ignored pixels are hits", "excluded": "ignored pixels are left out"},
    "raster": {"fill_poly": "polygons are drawn by fillPoly", "rle": "polygons are drawn by pycocotools"},
    "missing": {
        "wrong": "no answer is always wrong", "empty": "no answer is an empty mask",
        "skipped": "no answer is left out of cIoU",
    },
}  # fmt: skip


def words_of(rule: str, rules: Rules) -> str:
    """What a rule says, for a user."""
    value = getattr(rules, rule)
    if rule == "empty":
        return f"two empty masks have IoU {value:g}"
    return f"{value:g} is added to unions" if rule == "epsilon" else WORDS[rule][value]


def _reasons(answers: Answers, first: Rules, second: Rules) -> Iterator[str]:
    """What each rule that differs changes, in points of cIoU and gIoU; those that change nothing are left out."""
    before = first
    for rule, after in first.steps(second):
        changes = [answers.value(after, metric) - answers.value(before, metric) for metric in ("ciou", "giou")]
        if any(abs(change) > 5e-7 for change in changes):
            yield f"{words_of(rule, after)} ({100 * changes[0]:+.2f}, {100 * changes[1]:+.2f})"
        before = after


def box_table(rows: Sequence[Row], dataset: Dataset) -> list[dict[str, Any]]:
    """Acc@0.5, 0.7 and 0.9 of boxes in each dialect that scores them in a way of its own, and in ours."""
    places = {id_key(dataset.info(index).ref_id): index for index in range(len(dataset))}
    found = []
    for name, dialect in load_dialects().items():
        if name == OURS or dialect.boxes != "annotated":
            ious = np.array([_box_iou(row, dataset, places[id_key(row["ref_id"])], dialect) for row in rows])
            accuracies = {f"acc@{each}": float((ious >= each).mean()) for each in THRESHOLDS}
            found.append({"dialect": name, "title": dialect.title} | accuracies | {"note": dialect.note})
    return found


def _box_iou(row: Row, dataset: Dataset, index: int, dialect: Dialect) -> float:
    example = dataset[index]
    if dialect.boxes == "annotated":
        return box_iou(tuple(row["box"]) if row.get("box") else None, example.box)
    width, height = _size(example)
    found = [tuple(map(float, four.groups())) for four in FOUR_NUMBERS.finditer(row.get("text") or "")]
    scaled = [(a * x, b * y, c * x, d * y) for a, b, c, d in found for x, y in ((1, 1), (width / 1000, height / 1000))]
    return max((box_iou(each, example.box) for each in scaled), default=0.0)


def _size(example: Example) -> tuple[int, int]:
    """(W, H)."""
    return example.mask.shape[::-1] if example.mask is not None else open_image(example.image).size
