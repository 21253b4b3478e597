"""What a repeated run of a released evaluation is compared in; see official_runs.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.data import rle
from bench.evaluate.printed import box_overlap, mask_figures, overlap
from methods.base import Example, Prediction, Request, mask_of
from methods.check import Check

PIXEL_SUM, BOX, SOFT = 0.5, 1e-3, 2e-3  # tolerances; ids, texts and counts are exact
EXACT = 1e-6  # of figures, beyond what the pixels at the threshold can move
FIGURE = re.compile(r"(?P<name>\w+)(?P<at> @ 1)?(?: \((?P<threshold>[\d.]+)\))?:? (?P<value>\d+(?:\.\d+)?)$")


@dataclass(frozen=True)
class Answered:
    """One sample: the reference's account of it, our line of predictions, what was asked, and the truth."""

    sample: Mapping[str, Any]
    line: Mapping[str, Any]
    request: Request
    prediction: Prediction
    example: Example

    @property
    def differing(self) -> int:
        """Pixels of the mask that are not the reference's."""
        return int((self.prediction.mask ^ rle.decode(self.sample["mask"])).sum())

    @property
    def allowed(self) -> int:
        """Of them, those that the reference counts as being at the threshold."""
        return next(int(self.sample[key]) for key in self.sample if key.startswith("near_threshold"))


def asked(inputs: Callable[[Request], Any], answers: Sequence[Answered]) -> Iterator[Check]:
    """The words of the questions, the ids of the prompts, and the pixels."""
    found = [inputs(answer.request)[0] for answer in answers]
    samples = [answer.sample for answer in answers]
    words = [sample["question"].removeprefix("<image>\n") for sample in samples]
    yield all_of("questions", [text == word for (text, _, _), word in zip(found, words, strict=True)])
    ids = [_spelled(sample["input_ids"]) for sample in samples]
    yield all_of("input ids", [ours == wanted for (_, ours, _), wanted in zip(found, ids, strict=True)])
    tiles = [len(pixels) == sample["tiles"] for (_, _, pixels), sample in zip(found, samples, strict=True)]
    yield all_of("tiles", tiles)
    sums = [pixels.sum(dtype=np.float64) - s["pixel_sum"] for (_, _, pixels), s in zip(found, samples, strict=True)]
    yield within("sum of the pixels", sums, PIXEL_SUM)


def _spelled(ids: Sequence[Any]) -> list[int]:
    """Ids of which [id, n] stands for n in a row."""
    return [each for entry in ids for each in ([entry[0]] * entry[1] if isinstance(entry, list) else [entry])]


def written(answers: Sequence[Answered], visual_ids: np.ndarray | None) -> Iterator[Check]:
    """The ids of the answers and of their masks; visual_ids [n, T]: of masks that stand in no text."""
    yield all_of("generated ids", [list(a.prediction.written) == a.sample["generated_ids"] for a in answers])
    if visual_ids is not None:
        pairs = zip(answers, visual_ids.tolist(), strict=True)
        yield all_of("ids of the masks", [list(answer.prediction.token_ids) == ids for answer, ids in pairs])


def masks(answers: Sequence[Answered], soft: np.ndarray | None, ignored_hit: bool) -> Iterator[Check]:
    """Ground truth, soft masks (float [n, 64, 64], every fourth pixel), masks, intersections and unions."""
    examples = [(mask_of(a.example), a.example.ignore) for a in answers]
    truths = [mask if ignore is None else mask | ignore for mask, ignore in examples]
    told = [rle.decode(a.sample["gt"]) for a in answers]
    ignored = [rle.decode(a.sample["ignored"]) if a.sample.get("ignored") else None for a in answers]
    told = [gt if hidden is None else gt | hidden for gt, hidden in zip(told, ignored, strict=True)]
    yield all_of("ground truth", [np.array_equal(ours, theirs) for ours, theirs in zip(truths, told, strict=True)])
    if soft is not None:
        ours = [a.prediction.probabilities for a in answers]
        gaps = [np.abs((p[::4, ::4] if p is not None else 0) - s).max() for p, s in zip(ours, soft, strict=True)]
        yield within("soft masks", gaps, SOFT)
    beyond = sum(max(0, a.differing - a.allowed) for a in answers)
    near = sum(min(a.differing, a.allowed) for a in answers)
    yield Check("masks, pixels that differ", f"{beyond}, and {near} at the threshold", "0", beyond == 0)
    counted = [(overlap(a.line, a.example, ignored_hit), a) for a in answers]
    fits = [abs(i - a.sample["I"]) <= a.allowed and abs(u - a.sample["U"]) <= a.allowed for (i, u), a in counted]
    yield all_of("intersections and unions", fits)


def boxes(answers: Sequence[Answered]) -> Iterator[Check]:
    """Boxes in pixels and their IoU; one that cannot be read is a box of zeros."""
    found = [a.line["box"] or (0, 0, 0, 0) for a in answers]
    gaps = [np.abs(np.subtract(box, a.sample["box"])).max() for box, a in zip(found, answers, strict=True)]
    yield within("boxes", gaps, BOX)
    ious = [box_overlap(a.line["box"], a.example.box) - a.sample["box_iou"] for a in answers]
    yield within("IoU of boxes", ious, EXACT)


def figures(
    row: Mapping[str, Any], ours: Mapping[str, float], honest: Mapping[str, float], answers: Sequence[Answered]
) -> Iterator[Check]:
    """The script's printed lines, and unrounded what it returned or what its counts give; beside ours the figure by
    this project's own rules."""
    slack = _slack(answers)
    for text in row["printed"]:
        found = FIGURE.search(text)
        if found is None:
            yield Check(f"printed {text!r}", "not understood", text, False)
            continue
        key, decimals = _key(found, ours), len(found["value"].partition(".")[2])
        value, near = ours.get(key, float("nan")), 0.5 * 10.0**-decimals + slack.get(key, 0.0)
        plain = f" (by our rules {honest[key]:.6f})" if key in honest else ""
        name = text.removesuffix(found["value"]).strip(": ")
        yield Check(
            f"printed {name}", f"{value:.6f}{plain}", found["value"], abs(value - float(found["value"])) <= near
        )
    for key, value in _unrounded(row, answers).items():
        gap, allowed = abs(ours[key] - value), EXACT + slack[key]
        yield Check(f"{key}, unrounded", f"off by {gap:.1e}", f"<= {allowed:.1e}", gap <= allowed)


def _unrounded(row: Mapping[str, Any], answers: Sequence[Answered]) -> dict[str, float]:
    if "returned_giou_ciou" in row:
        return dict(zip(("giou", "ciou"), row["returned_giou_ciou"], strict=True))
    return mask_figures([(a.sample["I"], a.sample["U"]) for a in answers]) if "I" in answers[0].sample else {}


def _key(found: re.Match[str], ours: Mapping[str, float]) -> str:
    """Our name of a printed figure: a threshold that is not told is the only one."""
    if not found["at"]:
        return found["name"].lower()
    return f"acc@{float(found['threshold']):g}" if found["threshold"] else next(iter(ours), "")


def _slack(answers: Sequence[Answered]) -> dict[str, float]:
    """By how much pixels at the threshold can move the figures of masks."""
    if "mask" not in answers[0].sample:
        return {}
    moved = [a.differing / max(1, a.sample["U"]) for a in answers]
    total = sum(a.sample["U"] for a in answers)
    return {"giou": float(np.mean(moved)), "ciou": sum(a.differing for a in answers) / max(1, total)}


def all_of(name: str, right: Sequence[bool]) -> Check:
    """How many samples agree."""
    return Check(name, f"{sum(right)} of {len(right)}", "equal", all(right))


def within(name: str, differences: Sequence[float], tolerance: float) -> Check:
    """The largest difference of all samples."""
    largest = float(np.max(np.abs(differences)))
    return Check(name, f"{largest:.1e}", f"<= {tolerance:.0e}", largest <= tolerance)
