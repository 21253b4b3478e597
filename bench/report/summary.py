"""The answer first: what a profile's records say, in three sentences, and the claims of the papers in one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from bench.records import BASELINE, DIFFERENCE, LATENCY, Record
from bench.report import claim, findings
from bench.report.layout import Column, Figure, Table
from bench.report.names import method_name, place_name
from bench.report.speed import by_setting, first_of, ratio_of
from bench.report.tables import scores_of

VERDICTS = ("reproduced", "contradicted", "not decided", "not measured here")
METRIC = "ciou"


def sentences(records: Sequence[Record], claims: Sequence[Table]) -> list[str]:
    """What was measured of accuracy, of speed, and of the papers' claims; those without records are left out."""
    return [sentence for sentence in (_accuracy(records), _speed(records), _claims(claims)) if sentence]


def _accuracy(records: Sequence[Record]) -> str:
    """The two best methods on the first place in which something was measured, val before other splits."""
    scored = [r for r in scores_of(records) if r.metric == METRIC and not r.variant]
    scored = [r for r in scored if not r.method.startswith(BASELINE)]
    if not scored:
        return ""
    place = min((r.place for r in scored), key=lambda place: (place[1] != "val", place))
    first, *others = sorted((r for r in scored if r.place == place), key=lambda r: -r.value)
    told = f"On {place_name(*place)}, {method_name(first.method)} reaches a cIoU of {_percent(first)}"
    if not others:
        return f"{told} ({first.n:,} samples)."
    second = others[0]
    gap = next((r for r in records if r.kind == DIFFERENCE and r.place == place and r.metric == METRIC
                and not (r.variant or r.trainings)
                and {r.method, r.against.get("method")} == {first.method, second.method}), None)  # fmt: skip
    sure = ""
    if gap is not None and gap.low is not None and gap.high is not None:
        low, high = sorted((abs(gap.low), abs(gap.high))) if gap.low * gap.high > 0 else (0, 0)
        sure = (f"; paired by sample the difference is {100 * low:.1f} to {100 * high:.1f} points" if high
                else "; paired by sample the difference is not sure")  # fmt: skip
    return f"{told} and {method_name(second.method)} {_percent(second)} ({first.n:,} samples{sure})."


def _percent(record: Record) -> str:
    half = "" if record.low is None or record.high is None else f" ± {50 * (record.high - record.low):.1f}"
    return f"{100 * record.value:.1f}{half}"


def _speed(records: Sequence[Record]) -> str:
    """The medians of whole requests to the methods as they are meant, of the setting that was timed first."""
    for setting, found in by_setting([r for r in records if r.kind == LATENCY]).items():
        plain = {first_of(mine).method: mine for mine in found
                 if first_of(mine).backend in ("", "fast") and not first_of(mine).variant
                 and ("total", "median_ms") in mine}  # fmt: skip
        if len(plain) < 2:
            continue
        fast, slow, *_ = sorted(plain.values(), key=lambda mine: mine["total", "median_ms"].value)
        ratio, low, high = ratio_of(slow, fast, ("total",))
        names = [method_name(first_of(mine).method) for mine in (fast, slow)]
        times = [mine["total", "median_ms"].value for mine in (fast, slow)]
        return (
            f"One request takes {times[0]:.0f} ms with {names[0]} and {times[1]:.0f} ms with {names[1]} "
            f"({', '.join(filter(None, setting[:2]))}), {ratio:.2f} times as long (95 % interval {low:.2f} to "
            f"{high:.2f})."
        )
    return ""


def _claims(claims: Sequence[Table]) -> str:
    verdicts = Counter(str(row["verdict"]) for table in claims for row in table.rows)
    if not verdicts:
        return ""
    counts = [(verdicts[name], name) for name in VERDICTS if verdicts[name]]
    told = [f"{count} {('is ' if count == 1 else 'are ') * (not place)}{name}" for place, (count, name) in
            enumerate(counts)]  # fmt: skip
    listed = f"{', '.join(told[:-1])} and {told[-1]}" if len(told) > 1 else told[0]
    return f"Of {sum(verdicts.values())} measurements of what the papers claim, {listed}."


COLUMNS = (
    Column("claim", "claim"), Column("metric", "metric"), Column("paper", "the paper, without and with"),
    Column("without", "without", "percent", "here"), Column("with", "with", "percent", "here"),
    Column("gain", "difference", "percent", "here"), Column("ratio", "ratio", "text", "here"),
    Column("n", "samples", "count", "here"), Column("trainings", "seeds", "count", "here"),
    Column("verdict", "verdict"), Column("why", "because"),
)  # fmt: skip
NOTES = (
    "A claim about scores is decided where both sides lie at least five points above the best baseline that looks at "
    "no expression, and the 95 % interval of the paired difference lies on one side of the claim's margin.",
    "Intervals of one seed are over images: another training of the same model may differ by more. Those of several "
    "are over images and trainings.",
)  # fmt: skip

RATIOS = {
    "reproduced": "all of the ratio's interval is above what is claimed",
    "contradicted": "all of the ratio's interval is below what is claimed",
    "not decided": "the ratio's interval holds what is claimed",
}


def claims(records: Sequence[Record], printed: pd.DataFrame) -> list[Table]:
    """All claims of the papers in one table, those about speed below, with a verdict each."""
    rows: list[dict[str, object]] = []
    for table in findings.findings(records, printed):
        for row in table.rows:
            found = row | _verdict(str(row["answer"]))
            rows.append(found | {"why": found["why"] or _bounds(row.get("gain"))})
    for table in claim.claims(records):
        rows += [{"claim": f"{row['text']} ({row['where']})", "metric": "latency", "paper": row["paper"],
                  "ratio": row["ratio"]} | _verdict(str(row["answer"])) | {"why": RATIOS.get(str(row["answer"]), "")}
                 for row in table.rows]  # fmt: skip
    shown = [column for column in COLUMNS if any(row.get(column.key) not in (None, "") for row in rows)]
    return [Table("Claims: the papers' figures and what was measured", shown, rows, NOTES)] if rows else []


def _verdict(answer: str) -> dict[str, str]:
    """An answer such as "not decided: not trained far enough" -> its verdict and the reason."""
    verdict, _, why = answer.partition(": ")
    return {"verdict": verdict, "why": why}


def _bounds(gain: object) -> str:
    """A difference's interval, which decides where nothing else does."""
    if not isinstance(gain, Figure) or gain.low is None or gain.high is None:
        return ""
    return "the difference is {:+.1f} to {:+.1f} points".format(*sorted((100 * gain.low, 100 * gain.high)))
