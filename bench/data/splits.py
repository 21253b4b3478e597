"""The splits that a profile evaluates on."""

from __future__ import annotations

from pathlib import Path

from bench.config import Profile
from bench.data.cards import label_of, open_dataset
from bench.data.dataset import Dataset
from bench.data.mixture import embedded
from methods.files import file_name


def is_embedded(profile: Profile) -> bool:
    """Whether the dataset that the profile evaluates on is built here."""
    return embedded(profile.data.dataset)


def eval_root(profile: Profile) -> Path:
    """Where the evaluation splits are."""
    return Path(profile.data.root) / "eval" if is_embedded(profile) else Path(profile.data.root)


def open_split(profile: Profile, split: str) -> Dataset:
    """A split of the dataset that the profile evaluates on."""
    data = profile.data
    return open_dataset(data.dataset, eval_root(profile), split, images=data.images, split_by=data.split_by)


def named(profile: Profile, name: str) -> str:
    """A part of a file's name, with the dataset before it unless that is the embedded one."""
    if is_embedded(profile):
        return name
    return file_name(label_of(profile.data.dataset, profile.data.split_by), name, join=".")
