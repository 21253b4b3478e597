"""The one reader of referring-segmentation data: RefMoji, RefCOCO, RefCOCO+, RefCOCOg (and gRefCOCO's lists).

Layout, as REFER's: a folder with `instances.json` (COCO) and `refs(<split_by>).json` or `.p` (a pickled list of dicts).
Pickles may hold builtin containers, strings and numbers only. H x W is the picture.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from methods.base import Box, Example, UserError

SMALL = 0.04  # share of the picture below which a referent counts as small
FAR = 1e5  # pixels: no picture is so large, and pycocotools fills the memory or crashes at coordinates far beyond
Record = Mapping[str, Any]


def path_under(folder: Path, name: str) -> Path | None:
    """The absolute path of a file that is named relative to a folder; None if the name leads out of it. Links that
    the user laid there are followed."""
    root = os.path.abspath(folder)
    path = Path(os.path.abspath(os.path.join(root, name)))
    return path if path.is_relative_to(root) and "\0" not in name else None


class ReferDataset(Sequence[Example]):
    """One Example per referent of a split, with all its sentences; masks are decoded when an example is taken.

    `root` is the folder of the refs file, or its parent if it has a subfolder `name`. `images` is the folder of the
    pictures (default `<root>/images`); without `opens_pictures` they need not be there, for who wants the truth alone.
    `styles` keeps only sentences of these styles (RefMoji marks its sentences), and `limit` only the first referents.
    `semantic` fills Example.semantic with the class of every pixel: True or
    "category" for categories, "supercategory" for the coarser ones; 0 is background, k + 1 the k-th in `classes`.
    """

    def __init__(
        self, root: Path | str, split: str, name: str = "refmoji", split_by: str | None = None,
        images: Path | str | None = None, semantic: bool | str = False, styles: Collection[str] | None = None,
        limit: int | None = None, opens_pictures: bool = True,
    ) -> None:  # fmt: skip
        folder = Path(root)
        folder = folder / name if (folder / name / "instances.json").exists() else folder
        self.name, self.split = name, split
        self.refs_path = find_refs(folder, split_by)
        self.instances_path = folder / "instances.json"
        self.images = Path(images) if images is not None else folder / "images"
        refs = _of_split(_load(self.refs_path), split, self.refs_path, styles)[:limit]
        self._refs = refs
        self._read_instances(_load(self.instances_path), {ref["image_id"] for ref in refs})
        self._check_anchors()
        self.classes, self._class_of = self._semantic_classes(semantic) if semantic else ((), {})
        self._opens, self._sized = opens_pictures, set[Any]()

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        ref = self._refs[index]
        image = self._images[ref["image_id"]]
        path = self._picture(image, ref)
        annotations = [self._annotations[ann_id] for ann_id in self._ann_ids[index]]
        shape = (image["height"], image["width"])
        mask = np.zeros(shape, bool)
        for annotation in annotations:
            mask |= self._mask(annotation, shape, ref)
        return Example(
            image=path, expressions=tuple(sentence["sent"] for sentence in ref["sentences"]), mask=mask,
            box=_union([annotation["bbox"] for annotation in annotations]), dataset=self.name, split=self.split,
            image_id=ref["image_id"], ref_id=ref["ref_id"], task="segment", facts=self._facts(ref, annotations, mask),
            semantic=self._semantic(ref, shape) if self._class_of else None,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def by_image(self) -> list[tuple[Any, list[int]]]:
        """(image id, indices of its referents) in the order in which pictures first appear."""
        groups: dict[Any, list[int]] = {}
        for index, ref in enumerate(self._refs):
            groups.setdefault(ref["image_id"], []).append(index)
        return list(groups.items())

    def of_something(self) -> ReferDataset:
        """The same without referents of nothing (gRefCOCO's no-target samples), which have no box and no points."""
        kept = [index for index, ids in enumerate(self._ann_ids) if ids]
        if len(kept) == len(self):
            return self
        view = copy.copy(self)
        view._refs, view._ann_ids = [self._refs[i] for i in kept], [self._ann_ids[i] for i in kept]
        return view

    def expressions(self, index: int) -> tuple[str, ...]:
        """The sentences of a referent, without decoding its mask."""
        return tuple(sentence["sent"] for sentence in self._refs[index]["sentences"])

    def texts(self) -> Iterator[str]:
        """Every sentence, for a text tokenizer that is trained from nothing."""
        return (sentence["sent"] for ref in self._refs for sentence in ref["sentences"])

    def picture_paths(self) -> list[Path]:
        """Where the split's pictures are to lie, as the annotations say; none is looked for."""
        return [self.images / str(image["file_name"]) for image in self._images.values()]

    def objects(self, image_id: int | str) -> list[np.ndarray]:
        """The masks bool [H, W] of all annotated objects of a picture, referred to or not."""
        image = self._images[image_id]
        shape = (image["height"], image["width"])
        place = {"ref_id": f"any of image {image_id}"}
        return [self._mask(a, shape, place) for a in self._annotations.values() if a["image_id"] == image_id]

    # ------------------------------------------------------------------------------------------------- reading
    def _read_instances(self, data: Any, image_ids: set[Any]) -> None:
        """Keep what the split needs of instances.json."""
        try:
            self.categories = list(data["categories"])
            self._images = {image["id"]: image for image in data["images"] if image["id"] in image_ids}
            annotations = [ann for ann in data["annotations"] if ann["image_id"] in image_ids]
            self._annotations = {ann["id"]: ann for ann in annotations}
            self._names = {category["id"]: category.get("name") for category in self.categories}
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.instances_path}: not COCO instances ({error!r}); give the original file.") from None
        doubled = [name for name, count in Counter(ann["id"] for ann in annotations).items() if count > 1]
        if doubled:
            raise UserError(f"{self.instances_path}: several annotations have the id {doubled[0]}; number them anew.")
        self._check_fields("image", self._images.values(), file_name=_is_word, width=_is_side, height=_is_side)
        self._check_fields("annotation", self._annotations.values(), bbox=_is_box, category_id=_is_word)
        self._check_fields("category", self.categories, name=_is_word)

    def _check_fields(self, kind: str, records: Iterable[Record], **tests: Callable[[Any], bool]) -> None:
        for record in records:
            for key, fits in tests.items():
                if not fits(record.get(key)):
                    raise UserError(
                        f"{self.instances_path}: {kind} {record['id']} has no usable {key}; correct it or leave it out."
                    )

    def _check_anchors(self) -> None:
        """Resolve the annotations of every referent."""
        self._ann_ids: list[list[Any]] = []
        for ref in self._refs:
            if ref["image_id"] not in self._images:
                raise UserError(
                    f"{self.refs_path}: referent {ref['ref_id']} names image {ref['image_id']}, which "
                    f"{self.instances_path.name} does not list; use the two files of one release."
                )
            ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
            ids = [ann_id for ann_id in ids if ann_id != -1]  # gRefCOCO's mark of "no target"
            for ann_id in ids:
                found = self._annotations.get(ann_id)
                if found is None or found["image_id"] != ref["image_id"]:
                    raise UserError(
                        f"{self.refs_path}: referent {ref['ref_id']} names annotation {ann_id}, which "
                        f"{self.instances_path.name} does not have for its image; use the two files of one release."
                    )
            self._ann_ids.append(ids)

    def _picture(self, image: Record, ref: Record) -> Path:
        """The path of a picture, which must lie under the image folder and, if it is opened, have the recorded size."""
        path = path_under(self.images, str(image["file_name"]))
        if path is None:
            raise UserError(
                f"{self.instances_path}: image {image['id']} has the path {image['file_name']!r}, which leaves "
                f"{self.images}; correct file_name."
            )
        if not self._opens or image["id"] in self._sized:
            return path
        try:
            with Image.open(path) as handle:
                size = handle.size[::-1] if handle.getexif().get(0x0112) in (5, 6, 7, 8) else handle.size
        except FileNotFoundError:
            raise UserError(
                f"{path}: missing picture of referent {ref['ref_id']}; download it or set the folder of the images."
            ) from None
        except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: unreadable picture of referent {ref['ref_id']} ({error}); get it anew.") from None
        if size != (image["width"], image["height"]):
            raise UserError(
                f"{path}: is {size[0]}x{size[1]} pixels but the masks of referent {ref['ref_id']} are for "
                f"{image['width']}x{image['height']}; use the picture the annotations were made for."
            )
        self._sized.add(image["id"])
        return path

    def _mask(self, annotation: Record, shape: tuple[int, int], ref: Record) -> np.ndarray:
        try:
            return decode(annotation["segmentation"], *shape)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise UserError(
                f"{self.instances_path}: annotation {annotation['id']} of referent {ref['ref_id']} has an unusable "
                f"segmentation ({error}); correct it or leave the referent out."
            ) from None

    # ------------------------------------------------------------------------------------------------- derived
    def _facts(self, ref: Record, annotations: Sequence[Record], mask: np.ndarray) -> dict[str, Any]:
        """What breakdowns group by. Lists run along the sentences; None where the data does not say."""
        share = float(mask.mean())
        names = [self._names.get(annotation["category_id"]) for annotation in annotations]
        facts: dict[str, Any] = {
            key: [sentence.get(key) for sentence in ref["sentences"]] for key in ("style", "kind", "distractors")
        }
        facts |= {"area_fraction": share, "small": 0 < share < SMALL, "targets": len(annotations),
                  "category": names[0] if len(set(names)) == 1 else None}  # fmt: skip
        if len(annotations) == 1:
            facts |= {key: annotations[0][key] for key in ("visibility", "color") if key in annotations[0]}
        return facts

    def _semantic_classes(self, kind: bool | str) -> tuple[tuple[str, ...], dict[Any, int]]:
        """The class names, and category id -> class index."""
        if kind not in (True, "category", "supercategory"):
            raise UserError(f"semantic={kind!r} is unknown; use category or supercategory.")
        key = "supercategory" if kind == "supercategory" else "name"
        self._check_fields("category", self.categories, **{key: _is_word})
        self._check_fields("annotation", self._annotations.values(), area=_near)
        names = tuple(dict.fromkeys(category[key] for category in self.categories))
        if len(names) > 254:
            raise UserError(
                f"{self.instances_path}: {len(names)} classes do not fit a class map of 8 bits; "
                f"use semantic=supercategory."
            )
        self._by_image: dict[Any, list[Record]] = {}
        for annotation in self._annotations.values():
            self._by_image.setdefault(annotation["image_id"], []).append(annotation)
        return names, {category["id"]: names.index(category[key]) for category in self.categories}

    def _semantic(self, ref: Record, shape: tuple[int, int]) -> np.ndarray:
        """uint8 [H, W]: class index + 1 of the object at each pixel; smaller objects lie on larger ones."""
        classes = np.zeros(shape, np.uint8)
        ordered = sorted(self._by_image.get(ref["image_id"], ()), key=lambda annotation: -annotation["area"])
        for annotation in ordered:
            classes[self._mask(annotation, shape, ref)] = self._class_of[annotation["category_id"]] + 1
        return classes


# --------------------------------------------------------------------------------------------------------- the files
def find_refs(folder: Path, split_by: str | None) -> Path:
    """The refs file of a folder. UserError if there is none, or several and `split_by` does not choose."""
    found = sorted(path for ending in ("json", "p") for path in folder.glob(f"*refs(*).{ending}"))
    if split_by is not None:
        found = [path for path in found if f"({split_by})" in path.name]
    if not found:
        wanted = f"refs({split_by or '<split_by>'}).json or .p"
        raise UserError(f"{folder}: has no {wanted}; give the folder that holds it and instances.json.")
    if len({path.stem for path in found}) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{folder}: has several refs files ({names}); leave one of them there.")
    return found[0]


def _load(path: Path) -> Any:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the folder of the dataset.") from None
    if path.suffix == ".json":
        try:
            return json.loads(data)
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON ({error}); get the file anew.") from None
    return unpickle(data, path)


class _Restricted(pickle.Unpickler):
    """Unpickles builtin values only: a pickle is a program, and a dataset has no need of one."""

    allowed = frozenset("set frozenset list dict tuple str int float bool bytes bytearray complex object".split())

    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in self.allowed:
            return super().find_class("builtins", name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 pickles bytes in old protocols
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def unpickle(data: bytes, path: Path) -> Any:
    """The value of a pickle of builtins; anything else in it is a UserError that names the class."""
    try:
        return _Restricted(io.BytesIO(data), encoding="utf-8").load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: asks for {error}, but may hold builtin values only; use the original file.") from None
    except Exception as error:  # a broken pickle may fail with any exception
        raise UserError(f"{path}: not a readable pickle ({error!r}); get the file anew.") from None


def _of_split(refs: Any, split: str, path: Path, styles: Collection[str] | None) -> list[dict[str, Any]]:
    """The referents of a split that have a sentence left."""
    if not isinstance(refs, list):
        raise UserError(f"{path}: holds a {type(refs).__name__}, not a list of referents; get the file anew.")
    kept, found = [], {}
    for number, ref in enumerate(refs):
        try:
            found[ref["split"]] = found.get(ref["split"], 0) + 1
            if ref["split"] != split:
                continue
            sentences = [item for item in ref["sentences"] if styles is None or item.get("style") in styles]
            for key in ("ref_id", "ann_id", "image_id"):
                ref[key]
            hash((ref["image_id"], *(ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]])))
            if not all(isinstance(item["sent"], str) for item in sentences):
                raise TypeError("a sentence is not text")
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: entry {number} is no referent ({error!r}); correct or remove it.") from None
        if sentences:
            kept.append({**ref, "sentences": sentences})
    if split not in found:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(found.items(), key=str))
        raise UserError(f"{path}: has no split {split!r}; it has {names or 'no referents at all'}.")
    doubled = [name for name, count in Counter(str(ref["ref_id"]) for ref in kept).items() if count > 1]
    if doubled:
        raise UserError(f"{path}: several referents of split {split!r} have the ref_id {doubled[0]}; number them anew.")
    if not kept:
        raise UserError(f"{path}: no sentence of split {split!r} has a style of {sorted(styles or ())}; choose others.")
    return kept


# --------------------------------------------------------------------------------------------------------- geometry
def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A COCO segmentation -> bool [height, width]: polygons, an RLE (compressed or not), or a list of RLEs.

    Parts are united. Raises ValueError if an RLE is not of that size or the form is unknown.
    """
    if isinstance(segmentation, Mapping):
        parts = [segmentation]
    elif isinstance(segmentation, list) and segmentation and isinstance(segmentation[0], Mapping):
        parts = segmentation
    elif isinstance(segmentation, list) and segmentation:
        if any(len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
            raise ValueError("a polygon needs at least three points")
        if not all(_near(value) for polygon in segmentation for value in polygon):
            raise ValueError("a coordinate of a polygon is no number or far outside")
        return rle.decode(rle.merge(rle.frPyObjects(segmentation, height, width))).astype(bool)
    else:
        raise ValueError("neither polygons nor RLE")
    return rle.decode(rle.merge([_compressed(part, height, width) for part in parts])).astype(bool)


def _compressed(part: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
    size = [int(value) for value in part["size"]]
    if size != [height, width]:
        raise ValueError(f"RLE of size {size} for a picture of {[height, width]} (height, width)")
    counts = part["counts"]
    if isinstance(counts, list):
        if any(not isinstance(count, int) or count < 0 for count in counts):
            raise ValueError("RLE counts have a run that is no whole number from 0 on")
        if sum(counts) != height * width:
            raise ValueError(f"RLE counts add up to {sum(counts)} of {height * width} pixels")
        return rle.frPyObjects({"size": size, "counts": counts}, height, width)
    encoded = {"size": size, "counts": counts.encode() if isinstance(counts, str) else counts}
    if _run_total(encoded["counts"]) != height * width:
        raise ValueError("RLE counts do not cover the picture")
    return encoded


def _run_total(counts: bytes) -> int:
    """The number of pixels that compressed counts describe: pycocotools reads past its memory if it is wrong.

    COCO's code: six bits a character from "0" on, bit 6 continues, bit 5 of the last is the sign; from the third
    run on, the difference to the run two before is stored.
    """
    runs: list[int] = []
    value = shift = 0
    for byte in counts:
        code = byte - 48
        if not 0 <= code < 64:
            raise ValueError("RLE counts have a character outside COCO's alphabet")
        value |= (code & 31) << shift
        shift += 5
        if shift > 35:  # COCO's code writes no more than seven characters, and its reader overflows at more
            raise ValueError("RLE counts have a number that is too long")
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            if runs[-1] < 0:
                raise ValueError("RLE counts have a negative run")
            value = shift = 0
    if shift:
        raise ValueError("RLE counts end within a number")
    return sum(runs)


def _near(value: Any) -> bool:
    """Whether a value is a number that a coordinate can be; NaN is none."""
    return isinstance(value, int | float) and abs(value) < FAR


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_near(number) for number in value)


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and 0 < value < FAR


def _is_word(value: Any) -> bool:
    return isinstance(value, str | int)


def _union(boxes: Sequence[Sequence[float]]) -> Box | None:
    """COCO boxes (x, y, width, height) -> the box around all of them as xyxy with exclusive ends."""
    if not boxes:
        return None
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return float(left), float(top), float(right), float(bottom)
