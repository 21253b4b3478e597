"""How well a mask tokenizer writes masks, by itself: reconstruction by the number of tokens and by the size, aspect and
place of the mask, the shape test, and the use of its codebook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.dataset import Dataset
from bench.evaluate.mask_groups import GROUPS
from bench.evaluate.runner import resized, round_trip
from bench.evaluate.shapes import KINDS, Shape
from bench.evaluate.statistics import ratio_intervals
from bench.records import BREAKDOWN, RECONSTRUCTION, RESIZE_ALONE, Record
from methods.base import Example, MaskTokenizer, UserError

BATCH = 32


@dataclass
class Reconstructions:
    """Of N masks: pixels of intersection and union with the truth after each number of tokens, int [N]; under 0 after
    the resize to the tokenizer's grid and back alone. groups: of each mask by GROUPS. images: each mask's image id.
    codes: the tokens, int [N, length]. worst: the samples with the lowest IoU after all tokens, worst first, with the
    mask that came back and this IoU."""

    intersections: dict[int, np.ndarray]
    unions: dict[int, np.ndarray]
    groups: list[dict[str, str]]
    images: list[Any]
    codes: np.ndarray
    worst: list[tuple[Example, np.ndarray, float]]

    def iou(self, tokens: int) -> np.ndarray:
        """IoU of each mask, float [N]."""
        return self.intersections[tokens] / np.maximum(1, self.unions[tokens])


def reconstruct(mask_tokenizer: MaskTokenizer, dataset: Dataset, limit: int = 0, worst: int = 24) -> Reconstructions:
    """Encode and decode the masks of a dataset (the first `limit` that are not empty, if not 0) with each of the
    tokenizer's prefixes. Raises UserError if there is none."""
    counts = (0, *mask_tokenizer.prefixes)
    pairs: dict[int, list[tuple[int, int]]] = {count: [] for count in counts}
    groups, images, codes = [], [], []
    lowest: list[tuple[Example, np.ndarray, float]] = []
    for examples in _batches(dataset, limit):
        for count in counts:
            found = round_trip(mask_tokenizer, examples, count) if count else resized(mask_tokenizer, examples)
            pairs[count] += [(int((p.mask & e.mask).sum()), int((p.mask | e.mask).sum())) for p, e in
                             zip(found, examples, strict=True)]  # fmt: skip
        masks = [np.asarray(example.mask) for example in examples]
        groups += [{name: rule(mask) for name, rule in GROUPS.items()} for mask in masks]
        images += [example.image_id for example in examples]
        codes.append(_codes(mask_tokenizer, masks))
        ious = [inter / max(1, union) for inter, union in pairs[mask_tokenizer.length][-len(examples) :]]
        lowest += [(e, np.asarray(p.mask), iou) for e, p, iou in zip(examples, found, ious, strict=True)]
        lowest = sorted(lowest, key=lambda row: row[2])[:worst]
    if not groups:
        raise UserError(f"{dataset.name} {dataset.split}: holds no masks; give a dataset that has some.")
    intersections, unions = ({c: np.array([p[i] for p in pairs[c]]) for c in counts} for i in (0, 1))
    return Reconstructions(intersections, unions, groups, images, np.concatenate(codes), lowest)


def _batches(dataset: Dataset, limit: int) -> Iterator[list[Example]]:
    batch: list[Example] = []
    taken = 0
    for index in range(len(dataset)):
        example = dataset[index]
        if example.mask is None or not example.mask.any():
            continue
        batch.append(example)
        taken += 1
        if len(batch) == BATCH or taken == limit:
            yield batch
            batch = []
        if taken == limit:
            return
    if batch:
        yield batch


@torch.inference_mode()
def _codes(mask_tokenizer: MaskTokenizer, masks: Sequence[np.ndarray]) -> np.ndarray:
    views = torch.from_numpy(np.stack([mask_tokenizer.preprocess_mask(mask) for mask in masks]))[:, None]
    device = next((weights.device for weights in mask_tokenizer.parameters()), views.device)
    return mask_tokenizer.encode(views.to(device), mask_tokenizer.length).cpu().numpy()


def reconstruction_records(
    found: Reconstructions, mask_tokenizer: MaskTokenizer, seed: int = 0, **facts: Any
) -> list[Record]:
    """gIoU and cIoU for every number of tokens and of the resize alone, gIoU by group, and the use of the codebook.
    facts: the records' other fields (method, dataset, split, ...)."""
    records = []
    for tokens in found.intersections:
        way: dict[str, Any] = {"tokens": tokens} if tokens else {"variant": RESIZE_ALONE}
        records += _figures(found, tokens, np.arange(len(found.groups)), ("giou", "ciou"), seed, way, facts)
    whole = mask_tokenizer.length
    for name in GROUPS:
        values = np.array([group[name] for group in found.groups])
        for value in sorted(set(values)):
            way = {"tokens": whole, "group": {name: str(value)}}
            records += _figures(found, whole, np.flatnonzero(values == value), ("giou",), seed, way, facts)
    return records + _codebook(found.codes, mask_tokenizer.size, facts)


def _figures(
    found: Reconstructions, tokens: int, chosen: np.ndarray, metrics: Sequence[str], seed: int, way: dict[str, Any],
    facts: dict[str, Any],
) -> list[Record]:  # fmt: skip
    inter, union = found.intersections[tokens][chosen], found.unions[tokens][chosen]
    columns = {"giou": (found.iou(tokens)[chosen], np.ones(len(chosen))), "ciou": (inter, union)}
    images = [found.images[index] for index in chosen]
    measured = ratio_intervals({name: columns[name] for name in metrics}, images, seed)
    kind = BREAKDOWN if "group" in way else RECONSTRUCTION
    return [
        Record(metric=name, value=each.value, low=_known(each.low), high=_known(each.high), n=len(chosen), kind=kind,
               **way, **facts)
        for name, each in measured.items()
    ]  # fmt: skip


def _known(bound: float) -> float | None:
    """None for the NaN of an interval over one image."""
    return None if np.isnan(bound) else bound


def _codebook(codes: np.ndarray, size: int, facts: dict[str, Any]) -> list[Record]:
    """The share of codes that the masks use, and the perplexity of their distribution: how many equally frequent codes
    would say as much."""
    counts = np.bincount(codes.ravel(), minlength=size)
    shares = counts[counts > 0] / counts.sum()
    values = {"codes_used": float((counts > 0).mean()), "perplexity": float(np.exp(-(shares * np.log(shares)).sum()))}
    return [Record(metric=name, value=value, n=codes.shape[0], kind=RECONSTRUCTION, **facts)
            for name, value in values.items()]  # fmt: skip


def shape_ious(mask_tokenizer: MaskTokenizer, shapes: Sequence[Shape], batch: int = 50) -> dict[str, np.ndarray]:
    """IoU of each shape after encoding and decoding all its tokens, by kind; under "all" those of all kinds, and under
    "resize" those after the way to the tokenizer's grid and back alone."""
    examples = [Example(Path(), ("",), shape.mask, dataset="shapes", ref_id=i) for i, shape in enumerate(shapes)]
    ious = np.array([
        _iou(prediction.mask, shape.mask)
        for i in range(0, len(examples), batch)
        for shape, prediction in zip(
            shapes[i : i + batch], round_trip(mask_tokenizer, examples[i : i + batch], mask_tokenizer.length),
            strict=True,
        )
    ])  # fmt: skip
    kinds = np.array([shape.kind for shape in shapes])
    found = {kind: ious[kinds == kind] for kind in KINDS} | {"all": ious}
    alone = zip(resized(mask_tokenizer, examples), shapes, strict=True)
    return found | {"resize": np.array([_iou(prediction.mask, shape.mask) for prediction, shape in alone])}


def _iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float((predicted & truth).sum() / max(1, (predicted | truth).sum()))


def shape_records(ious: Mapping[str, np.ndarray], seed: int = 0, **facts: Any) -> list[Record]:
    """A record of gIoU for each entry of `shape_ious`, with its interval over masks."""
    records = []
    for name, values in ious.items():
        found = ratio_intervals({"giou": (values, np.ones(len(values)))}, range(len(values)), seed)["giou"]
        fields: dict[str, Any] = {"dataset": "shapes", "split": name, "kind": RECONSTRUCTION, "metric": "giou"} | facts
        records.append(Record(value=found.value, low=found.low, high=found.high, n=len(values), **fields))
    return records
