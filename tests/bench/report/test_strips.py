"""Strips from coarse to fine: which samples and columns they have."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bench.data import rle
from bench.data.dataset import ExampleDataset
from bench.report import strips
from bench.report.browser.steps import evenly, fourfold
from bench.report.qualitative_grid import CELL, GAP
from methods.base import Example, UserError
from methods.files import write_lines

MASK = np.zeros((40, 60), bool)
MASK[10:20, 10:30] = True


@pytest.mark.parametrize(
    ("prefixes", "shown"),
    [(range(1, 33), [1, 4, 16, 32]), ([1, 5, 14, 30], [1, 5, 14, 30]), ([7], [7]), (range(3, 20), [3, 12, 19])],
)
def test_few_prefixes_are_all_shown_and_of_many_those_four_times_as_long(prefixes, shown):
    assert fourfold(prefixes) == shown
    assert len(evenly(prefixes)) == min(12, len(prefixes))


@pytest.fixture
def profile(tmp_path):
    answers = [{"ref_id": i, "iou": i / 10, "token_ids": [1, 2], "failure": None} for i in range(10)]
    answers += [{"ref_id": 10, "iou": 1.0, "token_ids": [], "failure": None},
                {"ref_id": 11, "iou": 0.0, "token_ids": [1], "failure": "cut off"}]  # fmt: skip
    row = {"dataset": "toy", "split": "val", "protocol": "per_expression", "sent_id": 0, "expression": "it",
           "mask": rle.encode(MASK), "method": "himtok"}  # fmt: skip
    write_lines(tmp_path / "scores" / "a.jsonl", [row | each for each in answers])
    return SimpleNamespace(runs_dir=tmp_path)


def opened(*_):
    return ExampleDataset([Example(Image.new("RGB", (60, 40)), ("it",), MASK, ref_id=i) for i in range(12)])


def test_answers_from_the_best_to_the_worst_have_a_line_each(profile, monkeypatch):
    asked = []

    def steps(_, label, samples, choose):
        asked.append((label, [sample.ref_id for sample in samples]))
        return {sample.name: [(1, MASK), (4, MASK)][: 1 if sample.ref_id == 0 else 2] for sample in samples}

    monkeypatch.setattr(strips, "masks_on_the_way", steps)
    found = strips.prefix_strips(profile, opened)
    assert asked == [("himtok", [9, 6, 3, 0])]
    assert found.keys() == {"prefixes.himtok.webp"}
    image = Image.open(io.BytesIO(found["prefixes.himtok.webp"]))
    assert image.width == 4 * (CELL + GAP) + GAP  # image, 1 token, 4 tokens, ground truth
    assert 3 * 150 < image.height < 4 * 180  # the last has no whole tokens
    monkeypatch.setattr(strips, "masks_on_the_way", lambda *_: {})
    assert strips.prefix_strips(profile, opened) == {}


def test_without_scores_or_images_there_are_none(profile, tmp_path, monkeypatch, capsys):
    def nowhere(*_):
        raise UserError("toy: has no refs.")

    monkeypatch.setattr(strips, "masks_on_the_way", lambda _, __, found, ___: {s.name: [(1, MASK)] for s in found})
    assert strips.prefix_strips(profile, nowhere) == {}
    assert "Masks on the way of himtok left out: toy: has no refs." in capsys.readouterr().err
    assert strips.prefix_strips(profile, lambda *_: ExampleDataset([])) == {}
    assert strips.prefix_strips(SimpleNamespace(runs_dir=tmp_path / "new"), opened) == {}
