"""The scores: one sample -> `SampleScore`, many samples -> every registered metric.

A metric is one file, or a few lines of one, beside these: it says by name how its figure follows from the samples, and
stands then in scores, records, intervals, comparisons and tables alike. Conventions (they differ between repositories,
and the differences move the numbers):

- Pixel counts are integers, sums are int64, there is no epsilon. Ignored pixels are background in both masks for every
  measure of agreement (the ground truth's area and the boxes are taken before that).
- Both masks empty: IoU 1. One empty: 0. A missing mask is an empty mask and a failure; it is never left out, and it
  agrees with nothing: where the ground truth is empty too, no answer scores 0 in every measure.
- That a sample has no target is said by the dataset, never by a ground truth that happens to be empty.
- `ciou` is the sum of intersections over the sum of unions (oIoU, overall IoU elsewhere); `giou` is the mean of the
  samples' IoU (mIoU elsewhere; never the box GIoU).
- Boxes are x1, y1, x2, y2 in pixels with exclusive ends: one pixel has area 1.
"""

# isort: off - the order in which the metrics are listed
from bench.evaluate.metrics import boundary, boxes, classes, grammar, no_target, overlap, sizes

# isort: on
from bench.evaluate.metrics.boundary import mask_box
from bench.evaluate.metrics.registry import aggregate, ratio, support, terms
from bench.evaluate.metrics.sample import SampleScore, score

VERSION = 3  # raise it when a score of the same masks changes, so that kept scores are made again

__all__ = [
    "VERSION", "SampleScore", "aggregate", "boundary", "boxes", "classes", "grammar", "mask_box", "no_target",
    "overlap", "ratio", "score", "sizes", "support", "terms",
]  # fmt: skip
