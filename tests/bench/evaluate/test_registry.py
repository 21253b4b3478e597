"""Metrics are registered once and appear everywhere; a further one is a few lines of one file."""

import numpy as np
import pytest

from bench.evaluate.metrics import SampleScore, aggregate, registry, score
from bench.evaluate.metrics.registry import mean, per_class, ratio_of_sums, register
from bench.evaluate.scoring import compare, to_records
from bench.evaluate.statistics import intervals

TEMPLATE = score(np.ones((3, 3), bool), np.ones((3, 3), bool))


def rows(seed=0, count=24):
    """Lines of scores of three classes on eight images."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        union = int(rng.integers(20, 200))
        inter = int(rng.integers(0, union))
        found.append(TEMPLATE.as_dict() | {
            "intersection": inter, "union": union, "iou": inter / union, "category": "cat dog horse".split()[index % 3],
            "ref_id": index, "sent_id": 0, "image_id": index // 3, "dataset": "toy", "split": "val", "protocol": "p",
        })  # fmt: skip
    return found


@pytest.fixture
def extra(monkeypatch):
    """register(...) for one test."""
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    return register


def test_a_metric_of_classes_by_hand():
    scored = [SampleScore.from_dict(row) for row in rows()]
    per = []
    for name in ("cat", "dog", "horse"):
        mine = [sample for sample in scored if sample.category == name]
        per.append(sum(s.intersection for s in mine) / sum(s.union for s in mine))
    assert aggregate(scored)["miou_class"] == pytest.approx(np.mean(per))
    found = intervals(scored, [row["image_id"] for row in rows()])
    assert found["miou_class"].low < found["miou_class"].value < found["miou_class"].high
    assert found["ciou"] == intervals([SampleScore.from_dict(row | {"category": None}) for row in rows()],
                                      [row["image_id"] for row in rows()])["ciou"]  # fmt: skip


def test_a_further_metric_appears_everywhere(extra):
    extra("half", mean, lambda s: s.iou >= 0.5)
    extra(
        "ciou_of_dogs", ratio_of_sums, lambda s: (s.intersection, s.union), lambda s: s.category == "dog", note="dogs"
    )
    extra("small_by_class", per_class, lambda s: (s.intersection, s.union), lambda s: s.union < 100)
    records = {record.metric: record for record in to_records(rows(), method="m")}
    assert records["ciou_of_dogs"].n == 8
    assert records["ciou_of_dogs"].note == "dogs"
    found = compare((rows(), rows(seed=1)))
    for name in ("half", "ciou_of_dogs", "small_by_class", "miou_class"):
        assert found[name].value == pytest.approx(
            records[name].value - {r.metric: r for r in to_records(rows(1), method="m")}[name].value
        )
        assert records[name].low <= records[name].value <= records[name].high


def test_a_name_is_given_once(extra):
    with pytest.raises(ValueError, match="two metrics 'giou'"):
        extra("giou", mean, lambda s: s.iou)


def test_metrics_of_one_benchmark_are_not_those_of_another():
    plain = {record.metric for record in to_records([row | {"category": None} for row in rows()], method="m")}
    assert not {"miou_class", "n_acc", "t_acc", "pr@0.7"} & plain
