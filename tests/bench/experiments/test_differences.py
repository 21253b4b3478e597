"""What trainings, claims and methods say side by side, from files of scores alone."""

import json

import numpy as np
import pytest

from bench.data import rle
from bench.evaluate.metrics import score
from bench.experiments import differences as module
from bench.experiments.claims import Claims, ScoreClaim, Side
from bench.experiments.differences import AblationScores
from bench.records import BREAKDOWN, DIFFERENCE, Record, read_records, write_records

TRUTH = np.zeros((8, 8), bool)
TRUTH[2:6, 2:6] = True
FACTS = {"checkpoint": "abc", "device": "cpu"}
PAPER, OFF = {"hierarchy": "paper"}, {"hierarchy": "off"}


def lines(path, quality, images=12, seed=0):
    """A file of scores whose masks cover about a share `quality` of the truth; every other sample is complex."""
    rng = np.random.default_rng(seed)
    rows = []
    for image in range(images):
        mask = TRUTH & (rng.random(TRUTH.shape) < quality)
        rows.append({
            "dataset": "d", "split": "val", "protocol": "per_expression", "image_id": image, "ref_id": image,
            "sent_id": 0, "mask": rle.encode(mask), "facts": {"outline": ("plain", "complex")[image % 2]},
            **score(mask, TRUTH).as_dict(),
        })  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def giou(path, outline=None):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return np.mean([row["iou"] for row in rows if outline in (None, row["facts"]["outline"])])


@pytest.fixture
def claimed(monkeypatch):
    """One claim, about samples of a group or all."""

    def set_(group):
        claim = ScoreClaim("it helps", "himtok", "giou", Side(PAPER), Side(OFF), group=group)
        monkeypatch.setattr(module, "load_claims", lambda: Claims([claim]))

    return set_


def test_a_claim_is_the_mean_over_the_seeds_that_both_sides_have(tmp_path, claimed):
    claimed({})
    scores, files = AblationScores(), {}
    for name, variant in (("paper", PAPER), ("off", OFF)):
        for seed in (0, 1, 2):
            path = files[name, seed] = lines(
                tmp_path / f"{name}{seed}.jsonl", 0.9 if name == "paper" else 0.5, seed=seed
            )
            if (name, seed) != ("off", 2):
                scores.add("himtok", variant | ({"seed": seed} if seed else {}), None, path, FACTS)
    (found,) = scores.differences(tmp_path / "differences.jsonl", 0)
    wanted = np.mean([giou(files["paper", seed]) - giou(files["off", seed]) for seed in (0, 1)])
    assert (found.kind, found.trainings, found.variant, found.against) == (DIFFERENCE, 2, PAPER, {"variant": OFF})
    assert found.value == pytest.approx(wanted) and found.low < found.value < found.high
    assert found.checkpoint == "" and found.n == 12
    assert read_records(tmp_path / "differences.jsonl") == [found]


def test_the_mean_of_trainings_has_their_luck_in_its_interval(tmp_path):
    scores, files = AblationScores(), []
    for seed, quality in enumerate((0.3, 0.6, 0.9)):
        files.append(lines(tmp_path / f"{seed}.jsonl", quality, seed=seed))
        scores.add("argenseg", {"seed": seed} if seed else {}, None, files[-1], FACTS)
    found = {record.metric: record for record in scores.means(0)}["giou"]
    assert found.value == pytest.approx(np.mean([giou(path) for path in files]))
    assert (found.trainings, found.variant, found.label) == (3, {}, "argenseg (mean of 3 trainings)")
    alone = AblationScores()
    alone.add("argenseg", {}, None, files[1], FACTS)
    assert alone.means(0) == []
    assert found.high - found.low > 0.2  # three trainings that lie .6 apart


def test_a_claim_about_a_group_has_the_scores_of_its_samples(tmp_path, claimed):
    claimed({"outline": "complex"})
    scores = AblationScores()
    paths = [lines(tmp_path / f"{i}.jsonl", quality, seed=i) for i, quality in enumerate((0.9, 0.5))]
    for path, variant in zip(paths, (PAPER, OFF), strict=True):
        scores.add("himtok", variant, None, path, FACTS)
    found = scores.differences(tmp_path / "differences.jsonl", 0)
    values = {(r.kind, r.variant["hierarchy"]): r for r in found}
    assert {r.n for r in found} == {6} and all(r.group == {"outline": "complex"} for r in found)
    better, worse = (giou(path, "complex") for path in paths)
    assert values[DIFFERENCE, "paper"].value == pytest.approx(better - worse)
    assert values[BREAKDOWN, "paper"].value == pytest.approx(better)
    assert values[BREAKDOWN, "off"].value == pytest.approx(worse)


def test_methods_that_were_changed_alike_are_compared(tmp_path):
    scores = AblationScores()
    for method, variant, quality in (
        ("himtok", {"training": "short"}, 0.5), ("argenseg", {"training": "short"}, 0.9),
        ("himtok", {}, 0.5), ("argenseg", {}, 0.9),  # the main table has these
    ):  # fmt: skip
        path = lines(tmp_path / f"{method}{len(variant)}.jsonl", quality)
        scores.add(method, variant, None, path, FACTS)
    found = scores.differences(tmp_path / "differences.jsonl", 0)
    assert {(r.method, r.against["method"], r.variant["training"]) for r in found} == {("himtok", "argenseg", "short")}
    assert next(r for r in found if r.metric == "ciou").high < 0


def test_what_was_not_asked_again_stays(tmp_path, claimed):
    claimed({})
    kept = Record("himtok", "ciou", 0.1, "d", "val", DIFFERENCE, against={"tokens": 16}, tokens=32)
    write_records(tmp_path / "differences.jsonl", [kept])
    assert AblationScores().differences(tmp_path / "differences.jsonl", 0) == [kept]
