"""The readers of datasets, one file each. A card names one of these; a further format is one file and one line here."""

from bench.data.dataset import Dataset
from bench.data.readers.captions import CaptionDataset
from bench.data.readers.folder import FolderDataset
from bench.data.readers.refer import ReferDataset

READERS: dict[str, type[Dataset]] = {"refer": ReferDataset, "captions": CaptionDataset, "folder": FolderDataset}
