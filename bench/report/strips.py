"""Strips from coarse to fine: masks of some answers after their first tokens, or scales."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from bench.config import Profile
from bench.data.dataset import Dataset
from bench.report.browser.run import masks_on_the_way
from bench.report.browser.samples import Sample, read_samples, spread
from bench.report.browser.steps import Step, fourfold
from bench.report.qualitative_grid import ANSWER, TRUTH, cell, header, overlay, side_by_side, stack, wrapped
from methods.base import Example, UserError
from methods.files import file_name, printable
from methods.images import open_image

SAMPLES = 4
OpenDataset = Callable[[str, str], Dataset]


def prefix_strips(profile: Profile, open_dataset: OpenDataset) -> dict[str, bytes]:
    """Name of a file -> a WEBP of some answers of one method, best to worst, on the first place that was scored, val
    before others. None without scores; a method whose weights or images are not at hand is left out with a sentence."""
    scores = profile.runs_dir / "scores"
    try:
        samples = read_samples(scores)
    except UserError:
        return {}  # nothing was scored here
    place = min((sample.place for sample in samples), key=lambda place: (place[1] != "val", place))
    here = [sample for sample in samples if sample.place == place]
    files = {}
    for label in sorted({label for sample in here for label in sample.answers}):
        chosen = _chosen(here, label)
        steps = masks_on_the_way(profile, label, chosen, fourfold)
        if not any(steps.values()):
            continue
        try:
            examples = _examples(chosen, open_dataset(*place[:2]))
        except UserError as error:
            print(printable(f"Masks on the way of {label} left out: {error}"), file=sys.stderr)
            continue
        files[file_name("prefixes", label, join=".") + ".webp"] = _webp(_grid(chosen, label, examples, steps))
    return files


def _chosen(samples: Sequence[Sample], label: str) -> list[Sample]:
    """Answers of whole tokens, at equal distances by IoU from the best to the worst that is no failure."""
    whole = [sample for sample in samples if (row := sample.answers.get(label)) and row.get("token_ids")
             and not row.get("failure")]  # fmt: skip
    whole.sort(key=lambda sample: (-sample.answers[label]["iou"], sample.name))
    return spread(whole, SAMPLES)


def _examples(samples: Sequence[Sample], dataset: Dataset) -> dict[str, Example]:
    """Name of a sample -> its image and ground truth."""
    places = {str(dataset.info(index).ref_id): index for index in range(len(dataset))}
    lost = next((sample.ref_id for sample in samples if str(sample.ref_id) not in places), None)
    if lost is not None:
        raise UserError(f"there is no reference {lost}; run `genseg eval` on these data again.")
    return {sample.name: dataset[places[str(sample.ref_id)]] for sample in samples}


def _grid(
    samples: Sequence[Sample], label: str, examples: dict[str, Example], steps: dict[str, list[Step]]
) -> Image.Image:
    counts = sorted({count for own in steps.values() for count, _ in own})
    titles = [f"{count} token{'s' * (count > 1)}" for count in counts]
    lines = [_line(sample, label, examples[sample.name], steps[sample.name]) for sample in samples
             if len(steps.get(sample.name, ())) == len(counts)]  # fmt: skip
    return stack([header([*titles, "ground truth"]), *lines])


def _line(sample: Sample, label: str, example: Example, steps: Sequence[Step]) -> Image.Image:
    image = open_image(example.image)
    cells = [cell(image, wrapped(f"“{sample.first.get('expression', '')}”"))]
    for _, mask in steps:
        union = np.count_nonzero(mask | example.mask)
        shared = np.count_nonzero(mask & example.mask) / union if union else 1.0
        cells.append(cell(overlay(image, mask, ANSWER), [f"IoU {100 * shared:.0f} %"]))
    return side_by_side([*cells, cell(overlay(image, example.mask, TRUTH), [])])


def _webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()
