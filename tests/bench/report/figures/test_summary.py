"""The chart beside the answer."""

import pandas as pd

from bench.report.figures.summary import summary_chart
from bench.report.published import load_published


def test_the_chart_has_the_papers_apart_and_needs_times(records, published_folder):
    figure = summary_chart(records, load_published(published_folder))
    left, right = figure.axes
    words = {text.get_text() for text in left.texts}
    assert {"HiMTok", "ARGenSeg", "largest object (baseline)"} <= words
    assert {text.get_text() for text in right.texts} == {"HiMTok-8B", "HiMTok-8B (ft)", "ARGenSeg", "ARGenSeg (ft)"}
    assert len(summary_chart(records, pd.DataFrame()).axes) == 1
    assert summary_chart([r for r in records if r.kind != "latency"], pd.DataFrame()) is None
