"""The papers' figures, kept in `results/published/*.csv` as they were printed, in the columns of our records.

They are another dataset, another scale and often another protocol: they stand beside our figures as labelled rows and
are never mixed with them. A method is spelled alike in all rows; `protocol` is how its paper scored, or "not stated".
`grade` says how the figure came here: primary (the paper itself or its authors' pages), summary (a summary of the
paper), secondary (quoted by somebody else). `selection.yaml` beside them names those that stand under the main table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from bench.schema import construct, merged, read_yaml
from methods.base import UserError

FIELDS = ["method", "dataset", "split", "protocol", "metric", "value", "printed", "grade", "source", "table"]
COLUMNS = ("table", "method", "dataset", "split", "protocol", "metric", "value", "source", "grade")
GRADES = ("primary", "summary", "secondary")  # best first
MARKS = dict(zip(GRADES, ("", "†", "‡"), strict=True))  # behind a figure
METRICS = {"cIoU": "ciou", "gIoU": "giou", "mIoU": "giou", "BFscore": "bf_score", "accuracy": "accuracy",
           "N-acc": "n_acc"}  # fmt: skip


@dataclass
class Selection:
    """Figures that stand under the main table. note: what is to be said of the methods' names."""

    methods: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    split: str = "val"
    note: str = ""


def load_selection(folder: Path | str) -> Selection:
    """Raises UserError for an unknown key. Nothing is selected where there is no such file."""
    path = Path(folder) / "selection.yaml"
    if not path.is_file():
        return Selection()
    return construct(Selection, merged([read_yaml(path, Selection, "bench/report/published.py lists them")]), str(path))


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
    scored = found["metric"].isin(METRICS) | found["metric"].str.startswith("Acc@")
    found = found.rename(columns={"value": "printed"})
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
