"""The reader of referring-segmentation data under the names by which scripts know it and its option."""

from __future__ import annotations

from typing import Any

from bench.data.readers.refer import ReferDataset as Reader

__all__ = ["ReferDataset"]


class ReferDataset(Reader):
    """bench.data.readers.refer.ReferDataset; `opens_pictures` is its `opens_images`."""

    def __init__(self, *places: Any, opens_pictures: bool = True, **options: Any):
        super().__init__(*places, **{"opens_images": opens_pictures} | options)
