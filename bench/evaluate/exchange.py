"""Other systems' masks, in and out: JSON lines of predictions, COCO results, or a folder of PNG masks. Needs no torch.

COCO results are one JSON list of objects with `segmentation` (polygons, or run lengths, compressed or not). Which
question an object answers is said by `ref_id`, and by `sent_id`, `expression` or `caption` where single sentences are
answered; without a `ref_id`, `image_id` is enough where the split asks one thing of the image. `bbox` (x, y, width,
height), where it is given, is the box that was answered.

A folder holds a PNG for each question: `<ref_id>.png`, or `<ref_id>_<sent_id>.png` where single sentences are answered;
`<image_id>.png`, or the image's own name, is enough where the split asks one thing of the image. Of two values the
larger one is the mask; of more, as soft masks have, those above 127.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.data import rle
from bench.data.dataset import Dataset
from bench.evaluate.answers import ALL, JOINT, Located, id_key, match
from bench.evaluate.metrics import mask_box
from bench.outputs import check_new
from methods.base import UserError
from methods.files import (
    file_name,
    number,
    parse_json,
    printable,
    quoted,
    read_lines,
    read_text,
    whole_folder,
    write_atomic,
    write_lines,
)
from methods.images import UNREADABLE, open_header

WORDS = ("expression", "caption")
CARRIED = ("ref_id", "sent_id", "image_id", "text", "failure", "dataset", "split", "protocol")


class Questions:
    """How files of other forms name what a split asks."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self.infos = [dataset.info(index) for index in range(len(dataset))]
        self.places = {id_key(info.ref_id): index for index, info in enumerate(self.infos)}
        self.alone = {id_key(image): members[0] for image, members in dataset.by_image() if len(members) == 1}

    def names(self) -> dict[str, tuple[int, int]]:
        """File name without its ending -> (sample, sentence); names of samples go before those of images."""
        names = {file_name(image): (index, ALL) for image, index in self.alone.items()}
        for index, info in enumerate(self.infos):
            names |= {question_name(info.ref_id, position): (index, position) for position in info.positions}
        return names | {question_name(info.ref_id, ALL): (index, ALL) for index, info in enumerate(self.infos)}

    def of_image_files(self) -> dict[str, tuple[int, int]]:
        """The same by the names of those images that one thing is asked of."""
        files = ((self.dataset.image_file(index), index) for index in self.alone.values())
        return {path.stem: (index, ALL) for path, index in files if path is not None}


def question_name(ref_id: int | str, sentence: int) -> str:
    """The file name of a question's mask, without its ending."""
    return file_name(id_key(ref_id)) + ("" if sentence == ALL else f"_{sentence}")


# ---- reading ----------------------------------------------------------------------------------------------------


def read_answers(path: Path, dataset: Dataset) -> list[Located]:
    """The answers in a file or folder of any form, as lines of predictions. Raises UserError, naming the entry or the
    file, for one that cannot be read or that does not say what it answers."""
    if path.is_dir():
        return list(_from_images(path, Questions(dataset)))
    if is_results(path):
        asked = Questions(dataset)
        found: list[Located] = [(where, _from_result(row, where, asked)) for where, row in _entries(path)]
        if not found:
            raise UserError(f"{printable(path)}: holds no results; write them again.")
        return found
    return located(path)


def is_results(path: Path) -> bool:
    """Whether a file holds one JSON list."""
    return read_text(path, "give predictions: JSON lines, COCO results or a folder of masks").lstrip().startswith("[")


def located(path: Path | str) -> list[Located]:
    """The objects of a JSON-lines file, each with where it stands."""
    return [(f"{path}, line {number}", row) for number, row in read_lines(path)]


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = parse_json(read_text(path, "give COCO results"), path, "write it again as one list of objects")
    for place, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{printable(path)}, entry {place}: not an object; write the results as COCO does.")
        yield f"{path}, entry {place}", row


def _from_result(row: Mapping[str, Any], where: str, asked: Questions) -> dict[str, Any]:
    """A line of predictions from an entry of COCO results."""
    found = {name: row[name] for name in CARRIED if row.get(name) is not None}
    index = (asked.places if "ref_id" in found else asked.alone).get(id_key(found.get("ref_id", row.get("image_id"))))
    if index is None:
        named = f"reference {quoted(found['ref_id'])}" if "ref_id" in found else "single question about this image"
        raise UserError(
            f"{where}: the dataset has no {named}; COCO results need the ref_id of the question there, and split= its "
            "split."
        )
    info = asked.infos[index]
    words = next((row[name] for name in WORDS if row.get(name)), None)
    line = {"ref_id": info.ref_id, "image_id": info.image_id} | found | ({"expression": words} if words else {})
    return line | {"mask": _mask(row, asked.dataset, index, where), "box": _box(row.get("bbox"), where)}


def _mask(row: Mapping[str, Any], dataset: Dataset, index: int, where: str) -> dict[str, Any] | None:
    """The run lengths of an entry's segmentation; polygons are drawn at the size of the ground truth."""
    segmentation = row.get("segmentation")
    if not segmentation or isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str):
        return segmentation or None  # size and runs are checked where they are scored
    truth = dataset[index].mask
    if truth is None:
        raise UserError(f"{where}: {dataset.name} has no masks to score it by; give another dataset.")
    try:
        return rle.encode(rle.rasterize(segmentation, *truth.shape))
    except (ValueError, TypeError, KeyError, OverflowError, IndexError) as error:
        told = " ".join(str(error).split())
        raise UserError(f"{where}: the segmentation cannot be drawn ({told}); write it again.") from None


def _box(value: Any, where: str) -> list[float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 4:
        raise UserError(f"{where}: bbox is {quoted(value)}; write x, y, width and height in pixels, or leave it out.")
    x, y, width, height = (number(side, f"{where}: bbox") for side in value)
    return [x, y, x + width, y + height]


def _from_images(folder: Path, asked: Questions) -> Iterator[Located]:
    """A line of predictions for each PNG of a folder, in the order of their names."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not files:
        raise UserError(f"{printable(folder)}: holds no PNG masks; give a folder with one for each question.")
    names = asked.names()
    if any(path.stem not in names for path in files):
        names = asked.of_image_files() | names
    for path in files:
        if path.suffix.lower() != ".png":
            raise UserError(f"{printable(path)}: JPEG changes the pixels of a mask; write PNG.")
        if path.stem not in names:
            told = f"no question of {asked.dataset.name} {asked.dataset.split} has this name"
            raise UserError(f"{printable(path)}: {told}; name it <ref_id>.png, or <ref_id>_<sent_id>.png.")
        index, sentence = names[path.stem]
        line = {"ref_id": asked.infos[index].ref_id, "image_id": asked.infos[index].image_id, "sent_id": sentence}
        yield str(path), line | {"mask": rle.encode(read_mask(path)), "box": None}


def read_mask(path: Path) -> np.ndarray:
    """bool [H, W] of an image file of a mask: of two values the larger, of more those above 127. Raises UserError if it
    is no image, or one in colours."""
    try:
        with open_header(path) as handle:
            values = np.asarray(handle)
    except FileNotFoundError:
        raise UserError(f"{printable(path)}: no such file; give the path of a mask.") from None
    except UNREADABLE as error:
        raise UserError(f"{printable(path)}: not a readable image ({error}); write the mask as PNG.") from None
    if values.ndim == 3:
        if any((values[..., 0] != values[..., band]).any() for band in range(1, min(values.shape[2], 3))):
            raise UserError(f"{printable(path)}: an image in colours is no mask; write one value per pixel.")
        values = values[..., 0]
    found = np.unique(values)
    return values > (127 if len(found) > 2 else found[0] if len(found) == 2 else 0)


# ---- writing ----------------------------------------------------------------------------------------------------


def write_answers(rows: Sequence[Located], dataset: Dataset, target: Path) -> list[Path]:
    """Answers in the form that the target's name asks for: `.jsonl`, `.json` (COCO results, and the ground truth beside
    them as `.truth.json`), else a folder of PNG masks. Returns what was written.

    Questions without a mask are in the first form alone. Raises UserError if something is in the target's place."""
    lines = [(index, row) for index, row in match(rows, dataset)]
    if target.suffix == ".jsonl":
        check_new(target)
        return [write_lines(target, (row for _, row in lines))]
    if target.suffix == ".json":
        truth = target.with_suffix(".truth.json")
        check_new(target, truth)
        found = coco_results(lines)
        return [write_atomic(path, json.dumps(content, ensure_ascii=False))
                for path, content in ((target, found), (truth, coco_truth(lines, dataset)))]  # fmt: skip
    check_new(target)
    with whole_folder(target) as folder:
        for _, row in lines:
            if row["mask"] is not None:
                name = question_name(row["ref_id"], row["sent_id"])
                Image.fromarray(rle.decode(row["mask"])).save(folder / f"{name}.png")
    return [target]


def coco_results(lines: Sequence[tuple[int, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """COCO results with a category for each question, as open-vocabulary detection has one for each name, so that
    pycocotools compares an answer with its own ground truth alone. Our ids stand beside COCO's."""
    found = []
    for category, (_, row) in enumerate(lines, 1):
        if row["mask"] is None:
            continue
        ours = {name: row[name] for name in ("ref_id", "sent_id", "failure") if row.get(name) is not None}
        if row.get("box") is not None:
            x1, y1, x2, y2 = row["box"]
            ours["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        entry = {"image_id": row["image_id"], "category_id": category, "segmentation": row["mask"], "score": 1.0}
        found.append(entry | ours)
    return found


def coco_truth(lines: Sequence[tuple[int, Mapping[str, Any]]], dataset: Dataset) -> dict[str, list[dict[str, Any]]]:
    """The ground truth of the same questions as COCO annotations, for `pycocotools.coco.COCO`."""
    images: dict[Any, dict[str, Any]] = {}
    categories, annotations = [], []
    for category, (index, row) in enumerate(lines, 1):
        example = dataset[index]
        if example.mask is None:
            raise UserError(f"{dataset.name}: reference {example.ref_id} has no mask; COCO results need masks.")
        height, width = example.mask.shape
        images.setdefault(row["image_id"], {"id": row["image_id"], "height": height, "width": width})
        categories.append({"id": category, "name": row.get("expression") or JOINT.join(example.expressions)})
        x1, y1, x2, y2 = mask_box(example.mask) or (0.0, 0.0, 0.0, 0.0)
        annotations.append(
            {"id": category, "image_id": row["image_id"], "category_id": category, "iscrowd": 0,
             "segmentation": rle.encode(example.mask), "area": int(example.mask.sum()),
             "bbox": [x1, y1, x2 - x1, y2 - y1]}
        )  # fmt: skip
    return {"images": list(images.values()), "categories": categories, "annotations": annotations}
