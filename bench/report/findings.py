"""The papers' claims about scores beside what the ablations measured: does it hold at this size?

A claim (bench/experiments/claims.yaml) compares two sides sample by sample. It is reproduced where the 95 % interval of
the difference lies beyond the claim's margin on the claimed side, contradicted where it lies wholly short of it, else
not decided. Two models that have not learned the task yet decide nothing: both must beat the claim's trivial baselines
(bench/evaluate/baselines.py, which look at no expression) by its lead, with the lower end of their own intervals.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.evaluate.metrics.registry import REGISTRY
from bench.experiments.claims import ScoreClaim, key_of, load_claims
from bench.records import BREAKDOWN, DIFFERENCE, SCORE, Record, canonical
from bench.report.layout import Column, Figure, Table
from bench.report.tables import INTERVALS, ablated

UNTRAINED, UNKNOWN = "not decided: not trained far enough", "not decided: no trivial baseline was scored"
ALONE = "not decided: a single image has no interval"
LUCK = (
    "Intervals of one training are over images: another training of the same model may differ by more. Those of "
    "several are over images and trainings."
)
RULE = (
    "A claim is decided only if the lower ends of both scores lie at least {:g} points above the best baseline that "
    "looks at no expression."
)
COLUMNS = (
    Column("claim", "claim"), Column("metric", "metric"), Column("paper", "the paper, without and with"),
    Column("without", "without", "percent"), Column("with", "with", "percent"),
    Column("gain", "difference", "percent"), Column("n", "n", "count"),
    Column("trainings", "trainings", "count"), Column("answer", "at this size"),
)  # fmt: skip


def findings(records: Sequence[Record], published: pd.DataFrame) -> list[Table]:
    """One table, if any claim was measured: each claim, the papers' figures where they print them, ours, the answer.

    records: of `genseg ablation`; published: as `load_published` gives it.
    """
    scores = {_where(r): r for r in [*ablated(records), *sorted(_grouped(records), key=_trainings)]}
    gaps = [record for record in records if record.kind == DIFFERENCE]
    rows, notes, leads = [], [], set()
    answered = {record.method for record in records}
    for claim in (each for each in load_claims().scores if each.method in answered):
        gap = max((record for record in gaps if claim.is_of(record)), key=_trainings, default=None)
        where = gap.dataset if gap else ""
        whole, pair = (
            [scores.get((where, claim.method, side.key, claim.metric, canonical(group)))
             for side in (claim.less, claim.more)]
            for group in ({}, claim.group)
        )  # fmt: skip
        row = {"claim": claim.title, "metric": REGISTRY[claim.metric].title, "paper": _printed(claim, published)}
        if gap is None or None in pair or None in whole:
            rows.append(row | {"answer": "not measured here"})
            continue
        baseline = best_baseline(records, claim, gap)
        answer = _answer(claim, gap, whole, baseline)
        figures = {name: Figure(r.value, r.low, r.high) for name, r in zip(("without", "with"), pair, strict=True)}
        gain = {"gain": Figure(gap.value, gap.low, gap.high), "n": gap.n, "trainings": _trainings(gap)}
        rows.append(row | figures | gain | {"answer": answer})
        notes.append(_sentence(claim, gap, whole, baseline, answer))
        leads.add(RULE.format(100 * claim.lead))
    table = Table("Claims of the papers, ablated", COLUMNS, rows, [INTERVALS, *notes, *sorted(leads), LUCK])
    return [table] if notes else []


def best_baseline(records: Sequence[Record], claim: ScoreClaim, gap: Record) -> float | None:
    """The best score, on the difference's samples, of the claim's baselines; None if none was scored."""
    found = [
        r.value
        for r in records
        if r.kind == SCORE and r.method in claim.baselines and r.metric == claim.metric and r.place == gap.place
    ]
    return max(found, default=None)


def _where(record: Record) -> tuple[object, ...]:
    """What tells the score of one side of a claim."""
    side = key_of(record.variant, record.tokens)
    return record.dataset, record.method, side, record.metric, canonical(record.group)


def _grouped(records: Sequence[Record]) -> list[Record]:
    """The scores of groups of samples in ablated models."""
    return [r for r in records if r.kind == BREAKDOWN and r.group and (r.variant or r.tokens)]


def _trainings(record: Record) -> int:
    return record.trainings or 1


def _answer(claim: ScoreClaim, gap: Record, pair: Sequence[Record], baseline: float | None) -> str:
    """The verdict on a claim; pair: the scores of `less` and of `more` over all samples, which tell whether they have
    learned."""
    if baseline is None:
        return UNKNOWN
    if any(_least(score) < baseline + claim.lead for score in pair):
        return UNTRAINED
    if gap.low is None or gap.high is None:
        return ALONE
    low, high = (gap.low, gap.high) if claim.direction == "higher" else (-gap.high, -gap.low)
    return "reproduced" if low > claim.margin else "contradicted" if high < claim.margin else "not decided"


def _least(score: Record) -> float:
    return score.value if score.low is None else score.low


def _sentence(
    claim: ScoreClaim, gap: Record, pair: Sequence[Record], baseline: float | None, answer: str
) -> str:  # fmt: skip
    title, start = REGISTRY[claim.metric].title, f"{claim.method}: “{claim.title}” is {answer.split(':')[0]} here"
    if answer == UNKNOWN:
        return f"{start}, because no trivial baseline was scored (`genseg eval`)."
    if answer == UNTRAINED:
        low, side = min(zip(pair, (claim.less, claim.more), strict=True), key=lambda found: _least(found[0]))
        return (
            f"{start}: the models are not trained far enough. {side.label} has {100 * low.value:.1f} {title}, and the "
            f"best trivial baseline has {100 * baseline:.1f}."
        )
    if answer == ALONE:
        return f"{start}: {gap.n} samples of one image have no interval."
    low, high = sorted((100 * gap.low, 100 * gap.high))
    return (
        f"{start}. {title} changes by {100 * gap.value:+.1f} points ({low:+.1f} to {high:+.1f}; {claim.pair}, "
        f"{gap.n} samples)."
    )


def _printed(claim: ScoreClaim, published: pd.DataFrame) -> str:
    """What the paper prints, of several datasets the first (RefCOCO val): "79.2, 81.1", or a gain, "+2.5"."""
    found = []
    for name in filter(None, (claim.paper.less, claim.paper.more)):
        here = (published["table"] == claim.paper.table) & published["method"].str.contains(name, regex=False)
        gain = here & published["metric"].str.contains("gain")
        lines = published[gain if gain.any() else here & (published["metric"] == claim.metric)]
        found += [("+" if gain.any() else "") + str(lines["printed"].iloc[0])] if len(lines) else []
    return ", ".join(found) or "no figure"
