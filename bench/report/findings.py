"""The papers' claims about accuracy beside what the ablations measured: does it hold at this size?

A claim compares a model's answers with a part and without it, question by question. It is reproduced where the 95 %
interval of the difference lies above 0, contradicted where it lies below, else not decided. Two models that have not
learned the task yet decide nothing: both must beat every trivial baseline (`bench/evaluate/baselines.py`, which look at
no expression) by MARGIN, with the lower end of their own intervals.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.experiments.claims import CLAIMS, Claim
from bench.records import BASELINE, DIFFERENCE, Record
from bench.report.layout import Column, Figure, Table
from bench.report.tables import INTERVALS, SCORES, ablated

MARGIN = 0.05  # of the metric, over the best trivial baseline
UNTRAINED, UNKNOWN = "not decided: not trained far enough", "not decided: no trivial baseline was scored"
LUCK = "The intervals are over images. Another training of the same model may differ by more (variants with `seed=`)."
RULE = (
    f"A claim is decided only if the lower ends of both scores lie at least {100 * MARGIN:g} points above the best "
    "baseline that looks at no expression."
)

TITLES = {column.key: column.title for column in SCORES}


def findings(records: Sequence[Record], published: pd.DataFrame) -> list[Table]:
    """One table, if any claim was measured: each claim, the papers' figures where they print them, ours, the answer.

    records: of `genseg ablation`; published: as `load_published` gives it.
    """
    scores = {(r.dataset, r.method, r.variant, r.metric): r for r in ablated(records)}
    gaps = {(r.method, r.variant, r.metric): r for r in records if r.protocol == DIFFERENCE}
    trivial = best_baselines(records)
    rows, notes = [], []
    for claim in CLAIMS:
        gap = gaps.get((claim.method, claim.pair, claim.metric))
        where = gap.dataset if gap else ""
        pair = [scores.get((where, claim.method, variant, claim.metric)) for variant in (claim.less, claim.more)]
        row = {"claim": claim.text, "metric": TITLES[claim.metric], "paper": _printed(claim, published)}
        if gap is None or None in pair:
            rows.append(row | {"answer": "not measured here"})
            continue
        baseline = trivial.get((gap.dataset, gap.split, claim.metric))
        answer = _answer(gap, pair, baseline)
        figures = {name: Figure(r.value, r.low, r.high) for name, r in zip(("without", "with"), pair, strict=True)}
        rows.append(row | figures | {"gain": Figure(gap.value, gap.low, gap.high), "n": gap.n, "answer": answer})
        notes.append(_sentence(claim, gap, pair, baseline, answer))
    columns = [
        Column("claim", "claim"), Column("metric", "metric"), Column("paper", "the paper, without and with"),
        Column("without", "without", "percent"), Column("with", "with", "percent"),
        Column("gain", "difference", "percent"), Column("n", "n", "count"), Column("answer", "at this size"),
    ]  # fmt: skip
    return [Table("Claims of the papers, ablated", columns, rows, [INTERVALS, *notes, RULE, LUCK])] if notes else []


def best_baselines(records: Sequence[Record]) -> dict[tuple[str, str, str], float]:
    """(dataset, split, metric) -> the best score, per expression, of a baseline that looks at no expression."""
    best: dict[tuple[str, str, str], float] = {}
    for r in records:
        if r.method.startswith(BASELINE) and r.protocol == "per_expression":
            place = r.dataset, r.split, r.metric
            best[place] = max(r.value, best.get(place, r.value))
    return best


def _answer(gap: Record, pair: Sequence[Record], baseline: float | None) -> str:
    """The verdict on a claim; pair: the scores without the part and with it."""
    if baseline is None:
        return UNKNOWN
    if any(_least(score) < baseline + MARGIN for score in pair):
        return UNTRAINED
    return "reproduced" if gap.low > 0 else "contradicted" if gap.high < 0 else "not decided"


def _least(score: Record) -> float:
    return score.value if score.low is None else score.low


def _sentence(claim: Claim, gap: Record, pair: Sequence[Record], baseline: float | None, answer: str) -> str:
    title, start = TITLES[claim.metric], f"{claim.method}: “{claim.text}” is {answer.split(':')[0]} here"
    if answer == UNKNOWN:
        return f"{start}, because no trivial baseline was scored (`genseg eval`)."
    if answer == UNTRAINED:
        low = min(pair, key=_least)
        return (
            f"{start}: the models are not trained far enough. {low.variant} has {100 * low.value:.1f} {title}, and the "
            f"best trivial baseline has {100 * baseline:.1f}."
        )
    low, high = sorted((100 * gap.low, 100 * gap.high))
    return (
        f"{start}. {title} changes by {100 * gap.value:+.1f} points ({low:+.1f} to {high:+.1f}; {claim.pair}, "
        f"{gap.n} questions)."
    )


def _printed(claim: Claim, published: pd.DataFrame) -> str:
    """What the paper prints, of several datasets the first (RefCOCO val): "79.2, 81.1", or a gain, "+2.5"."""
    found = []
    for name in filter(None, (claim.printed_less, claim.printed_more)):
        here = (published["table"] == claim.table) & published["method"].str.contains(name, regex=False)
        gain = here & published["metric"].str.contains("gain")
        lines = published[gain if gain.any() else here & (published["metric"] == claim.metric)]
        found += [("+" if gain.any() else "") + str(lines["printed"].iloc[0])] if len(lines) else []
    return ", ".join(found) or "no figure"
