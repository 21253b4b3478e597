"""All figures of a profile, by name."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from bench.records import Record
from bench.report import scaling
from bench.report.figures.accuracy import accuracy_splits, object_sizes
from bench.report.figures.bars import budget_parts, latency_stages
from bench.report.figures.hierarchy import hierarchy_ablation
from bench.report.figures.lengths import ablation_lengths, mask_tokenizers, reconstruction_bound
from bench.report.figures.roofline import roofline
from bench.report.figures.style import files_of
from bench.report.figures.summary import summary_chart
from bench.report.figures.training import training_curves
from bench.report.training_logs import Training

VIEWS = {
    "accuracy_splits": accuracy_splits, "object_sizes": object_sizes, "latency_stages": latency_stages,
    "latency_roofline": roofline, "budget_parts": budget_parts, "reconstruction_bound": reconstruction_bound,
    "ablation_lengths": ablation_lengths, "hierarchy": hierarchy_ablation, "mask_tokenizers": mask_tokenizers,
}  # fmt: skip


def figures_of(records: Sequence[Record], printed: pd.DataFrame, training: Sequence[Training]) -> dict[str, bytes]:
    """Name of the file -> its bytes, of all figures that the records, the papers' figures and the logs allow."""
    drawn: dict[str, Figure | None] = {"summary": summary_chart(records, printed)}
    drawn |= {name: draw(records) for name, draw in VIEWS.items()}
    drawn |= {"training": training_curves(training), **scaling.figures(records)}
    files: dict[str, bytes] = {}
    for name, figure in drawn.items():
        files |= files_of(figure, name) if figure else {}
    return files
