"""The reader of referring-segmentation data under the name by which scripts know it."""

from bench.data.readers.refer import ReferDataset

__all__ = ["ReferDataset"]
