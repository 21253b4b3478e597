"""The papers' figures, kept in `results/published/*.csv` as they were printed, in the columns of our records.

They are another dataset, another scale and often another protocol: they stand beside our figures as labelled rows and
are never mixed with them. `grade` says how the figure came here: primary (the authors' own pages), summary (a summary
of the paper), secondary (quoted by somebody else).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from methods.base import UserError

FIELDS = ["method", "dataset", "split", "protocol", "metric", "value", "printed", "grade", "source", "table"]
COLUMNS = ("table", "method", "dataset", "split", "metric", "value", "source", "grade")
GRADES = ("primary", "summary", "secondary")  # best first

# Which protocol a paper scored by; README.md beside the figures says so. Any other method: not stated.
PROTOCOLS = {
    "per_object_joined": ("HiMTok", "ARGenSeg", "PSALM"),
    "per_expression": ("LISA", "PixelLM", "GLaMM", "Sa2VA"),
}
METRICS = {"cIoU": "ciou", "gIoU": "giou", "mIoU": "giou", "BFscore": "bf_score"}


def load_published(folder: Path | str) -> pd.DataFrame:
    """All published figures: method, dataset, split, protocol, metric, value, printed, grade, source, table.

    `value` is a fraction in 0..1 for scores, NaN where the print is no plain number ("~4x"); `printed` is the print.
    Raises UserError for a file without the columns or with an unknown grade.
    """
    frames = [_read(path) for path in sorted(Path(folder).glob("*.csv"))]
    if not frames:
        return pd.DataFrame(columns=FIELDS)
    found = pd.concat(frames, ignore_index=True)
    small = found["table"].str.contains("small objects")
    box = found["metric"].str.startswith("Acc@")
    found = found.rename(columns={"value": "printed"})
    scored = found["metric"].isin(METRICS) | box
    found["method"] = found["method"].map(method_name)
    found["protocol"] = found["method"].map(protocol_of)
    found.loc[box & (found["protocol"] == "per_object_joined"), "protocol"] = "per_expression"  # as RefCOCO's boxes are
    rerun = found["source"].str.contains("own runs")
    found.loc[rerun, "method"] += ", as run by others"  # with weights that need not be those of the paper's table
    found["value"] = [_fraction(text, is_score) for text, is_score in zip(found["printed"], scored, strict=True)]
    found["metric"] = found["metric"].map(
        lambda name: METRICS.get(name, name.lower() if name.startswith("Acc@") else name)
    )
    found.loc[found["table"].str.startswith("Open-vocabulary") & (found["metric"] == "giou"), "metric"] = "miou_class"
    found.loc[small & (found["metric"] == "ciou"), "metric"] = "small_ciou"
    return found[FIELDS]


def best_graded(figures: pd.DataFrame) -> pd.DataFrame:
    """Of several prints of one figure the best-graded one; secondary prints stay only where nothing better exists."""
    rank = figures["grade"].map(GRADES.index)
    ordered = figures.assign(rank=rank).sort_values("rank", kind="stable")
    kept = ordered.drop_duplicates(["method", "dataset", "split", "metric"])
    return kept.sort_index().drop(columns="rank")


def method_name(printed: str) -> str:
    """One spelling per method: "LMM_HiMTok-8B(ft)+SAM" -> "HiMTok-8B (ft) + SAM"."""
    name = re.sub(r"\s*\+\s*SAM", " + SAM", printed.removeprefix("LMM_"))
    name = re.sub(r"\s*\(ft\)", " (ft)", name)
    if re.match(r"\d+ mask tokens then box", name):
        return f"HiMTok-8B, {name}"
    return f"HiMTok-8B {name}" if name in ("w/o HML", "w/ HML") else name


def protocol_of(method: str) -> str:
    for protocol, names in PROTOCOLS.items():
        if method.startswith(names):
            return protocol
    return "not stated"


def _read(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r}; the columns must be {', '.join(COLUMNS)}.")
    wrong = sorted(set(frame["grade"]) - set(GRADES))
    if wrong:
        raise UserError(f"{path}: unknown grade {wrong[0]!r}; use one of {', '.join(GRADES)}.")
    return frame


def _fraction(printed: str, is_score: bool) -> float:
    """Scores were printed in percent, BFscore as a fraction; anything else is left as it is."""
    try:
        value = float(printed)
    except ValueError:
        return math.nan
    return round(value / 100, 6) if is_score and value > 1 else value


def select(figures: pd.DataFrame, families: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """The best-graded figures of methods whose names begin with one of the families, in the named metrics."""
    inside = figures["method"].str.startswith(tuple(families)) & figures["metric"].isin(metrics)
    return best_graded(figures[inside & figures["value"].notna()])
