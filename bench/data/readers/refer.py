"""The reader of referring-segmentation data: RefMoji, RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO.

Layout, as REFER's: a folder with `instances.json` (COCO) and `refs(<split_by>).json` or `.p`. H x W is the image as the
annotations record it.
"""

from __future__ import annotations

import copy
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import rle
from bench.data.boxes import COCO, FORMS, SURE, WRONG, box_iou, coco_union, is_box, is_number, read_as
from bench.data.dataset import Dataset, SampleInfo
from bench.data.readers.image_files import ImageFiles
from bench.data.readers.referents import UNUSABLE, digest_of, is_side, size_facts
from bench.data.readers.refs import find_folder, find_refs, load, of_split
from methods.base import Box, Example, UserError
from methods.files import read_object

BUCKETS = 254  # of classes, in a class map of 8 bits
NEAR = 3.0  # pixels by which an annotated box may always differ from its segmentation
Record = Mapping[str, Any]


class ReferDataset(Dataset):
    """One Example per referent of a split, with all its sentences; masks are decoded when an example is taken.

    `root` is the folder of the refs file, or its parent if it has a subfolder `name`. `images` is the folder of the
    images (default `<root>/images`); without `opens_images` they need not be there, for who wants the ground truth
    alone. An image whose file has another size than the annotations record is resized to the recorded one.
    `styles` keeps only sentences of these styles (RefMoji marks its sentences), and `limit` only the first referents.
    `skip_crowd` leaves crowd annotations out of the ground truth, as gRefCOCO's loaders do.
    `semantic` fills Example.semantic with the class of every pixel: True or
    "category" for categories, "supercategory" for the coarser ones; 0 is background, k + 1 the k-th in `classes`.
    "bucket" puts the categories into BUCKETS by a digest of their names, alike in every dataset.
    """

    layout = "*refs({split_by}).p or .json with instances.json in <root> or <root>/{name}"

    def __init__(
        self, root: Path | str, split: str, name: str = "refmoji", split_by: str | None = None,
        images: Path | str | None = None, semantic: bool | str = False, styles: Collection[str] | None = None,
        limit: int | None = None, opens_images: bool = True, skip_crowd: bool = False,
    ) -> None:  # fmt: skip
        folder = find_folder(Path(root), name)
        self.name, self.split = name, split
        self.refs_path = find_refs(folder, split_by)
        self.instances_path = folder / "instances.json"
        self.images = ImageFiles(Path(images) if images is not None else folder / "images", opens_images)
        refs, self._wordless = of_split(load(self.refs_path), split, self.refs_path, styles)
        self._refs = refs[:limit]
        self._digest = ""
        self._skip_crowd = skip_crowd
        self._unusable: dict[Any, str] = {}  # annotations that no sample needs -> what is wrong with them
        self._astray: set[Any] = set()  # annotations whose box does not lie around their segmentation
        self._read_instances(load(self.instances_path), {ref["image_id"] for ref in self._refs})
        self.classes, self._class_of = self._semantic_classes(semantic) if semantic else ((), {})

    @classmethod
    def find(cls, root: Path | str, name: str, split: str) -> Path | None:
        folder = find_folder(Path(root), name)
        return folder if any(folder.glob("*refs(*).*")) else None

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        ref = self._refs[index]
        name, shape, where = self._image_name(ref)
        image = self.images.open(name, shape, where)
        annotations = self._anchors(index)
        mask = np.zeros(shape, bool)
        for annotation in annotations:
            mask |= self._mask(annotation, shape, ref)
        return Example(
            image=image, expressions=self.info(index).expressions, mask=mask,
            box=coco_union([annotation["bbox"] for annotation in annotations]), dataset=self.name, split=self.split,
            image_id=ref["image_id"], ref_id=ref["ref_id"], task="segment", facts=self._facts(ref, annotations, mask),
            semantic=self._semantic(ref, shape) if self._class_of else None, no_target=not self._ann_ids[index],
        )  # fmt: skip

    def segmentations(self, index: int) -> list[Any]:
        return [annotation["segmentation"] for annotation in self._anchors(index)]

    def image_file(self, index: int) -> Path:
        name, _, where = self._image_name(self._refs[index])
        return self.images.path(name, where)

    def info(self, index: int) -> SampleInfo:
        ref, sentences = self._refs[index], self._refs[index]["sentences"]
        return SampleInfo(
            ref["ref_id"], ref["image_id"], tuple(sentence["sent"] for sentence in sentences),
            tuple(sentence["position"] for sentence in sentences), not self._ann_ids[index], self._class(index),
        )  # fmt: skip

    def with_targets(self) -> ReferDataset:
        """The same without referents of nothing (gRefCOCO's no-target samples), which have no box and no points."""
        kept = [index for index in range(len(self)) if self._anchors(index)]
        if len(kept) == len(self):
            return self
        view = copy.copy(self)
        view._refs, view._ann_ids = [self._refs[i] for i in kept], [self._ann_ids[i] for i in kept]
        return view

    def image_paths(self) -> list[Path]:
        """Where the split's images are to lie, as the annotations say; none is looked for."""
        return [self.images.folder / str(image["file_name"]) for image in self._images.values()]

    def objects(self, image_id: int | str) -> list[np.ndarray]:
        """The masks bool [H, W] of all annotated objects of an image, referred to or not. An unusable annotation is
        left out: `check` has counted it, or refused its sample."""
        shape = self._shape(image_id)
        masks = []
        for annotation in self._of_image.get(image_id, ()):
            try:
                masks.append(rle.rasterize(annotation["segmentation"], *shape))
            except UNUSABLE:
                continue
        return masks

    def check(self, indices: Sequence[int] | None = None) -> None:
        """Raise UserError, naming the sample, if an image or an annotation of these samples (all) cannot be used, or
        a box is none of x, y, width and height around its segmentation. No mask is decoded."""
        indices = range(len(self)) if indices is None else indices
        for index in indices:
            ref = self._refs[index]
            name, shape, where = self._image_name(ref)
            self.images.look(name, shape, where)
            for annotation in self._anchors(index):
                self._check_annotation(annotation, shape, ref)
        needed = {ann_id for ids in self._ann_ids for ann_id in ids}
        for image_id in {self._refs[index]["image_id"] for index in indices}:
            for annotation in self._of_image.get(image_id, ()):
                try:
                    if annotation["id"] not in needed:
                        rle.extent(annotation["segmentation"], *self._shape(image_id))
                except UNUSABLE as error:
                    self._unusable[annotation["id"]] = str(error)

    def digest(self) -> str:
        """The digest that a dataset built here has of its own, of others that of the two files with the annotations."""
        summary = self.instances_path.with_name("dataset.json")
        if summary.exists():
            return str(read_object(summary, "build the dataset again").get("digest"))
        if not self._digest:
            self._digest = digest_of([self.refs_path, self.instances_path])
        return self._digest

    def file_size(self, image_id: int | str) -> tuple[int, int] | None:
        return self.images.other_size(str(self._images[image_id]["file_name"])) if image_id in self._images else None

    def remarks(self) -> list[str]:
        found = self.images.remarks(len(self._images))
        if self._unusable:
            name, fault = next(iter(self._unusable.items()))
            found.append(f"{len(self._unusable)} unusable annotations that no expression names are left out "
                         f"({name}: {fault})")  # fmt: skip
        if self._astray:
            found.append(f"{len(self._astray)} annotated boxes do not lie around their segmentation "
                         f"(annotation {min(self._astray, key=str)})")  # fmt: skip
        if self._wordless:
            found.append(f"{self._wordless} expressions without words are not asked")
        return found

    # ------------------------------------------------------------------------------------------------- reading
    def _read_instances(self, data: Any, image_ids: set[Any]) -> None:
        """Keep what the split needs of instances.json, and of the rest on the same images what is usable."""
        try:
            categories = list(data["categories"])
            self._images = {image["id"]: image for image in data["images"] if image["id"] in image_ids}
            annotations = [ann for ann in data["annotations"] if ann["image_id"] in image_ids]
            self._annotations = {ann["id"]: ann for ann in annotations}
            self._names = {category["id"]: category.get("name") for category in categories}
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.instances_path}: not COCO instances ({error!r}); give the original file.") from None
        self._resolve_anchors()
        needed = {ann_id for ids in self._ann_ids for ann_id in ids}
        counts = Counter(ann["id"] for ann in annotations)
        doubled = [name for name in needed if counts[name] > 1]
        if doubled:
            raise UserError(
                f"{self.instances_path}: several annotations have the id {doubled[0]}; give each its own number."
            )
        self._check_fields("image", self._images.values(), file_name=_is_word, width=is_side, height=is_side)
        fields = {"bbox": is_box, "category_id": _is_word}
        self._check_fields("annotation", [self._annotations[name] for name in needed], **fields)
        for annotation in annotations:
            if annotation["id"] not in needed and not all(fits(annotation.get(key)) for key, fits in fields.items()):
                self._unusable[annotation["id"]] = "it has no usable bbox or category"
        kept = [ann for ann in self._annotations.values() if ann["id"] not in self._unusable]
        used = {ann["category_id"] for ann in kept}
        self.categories = [
            category for category in categories if category["id"] in used or _is_word(category.get("name"))
        ]
        self._check_fields("category", self.categories, name=_is_word)
        self._of_image: dict[Any, list[Record]] = {}
        for annotation in kept:
            if not (self._skip_crowd and annotation.get("iscrowd")):
                self._of_image.setdefault(annotation["image_id"], []).append(annotation)

    def _check_fields(self, kind: str, records: Iterable[Record], **tests: Callable[[Any], bool]) -> None:
        for record in records:
            for key, fits in tests.items():
                if not fits(record.get(key)):
                    raise UserError(
                        f"{self.instances_path}: {kind} {record['id']} has no usable {key}; correct it or leave it out."
                    )

    def _resolve_anchors(self) -> None:
        """Find the annotations of every referent."""
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

    def _anchors(self, index: int) -> list[Record]:
        """The annotations that make up a referent's ground truth."""
        found = [self._annotations[ann_id] for ann_id in self._ann_ids[index]]
        return [ann for ann in found if not (self._skip_crowd and ann.get("iscrowd"))]

    def _shape(self, image_id: Any) -> tuple[int, int]:
        image = self._images[image_id]
        return image["height"], image["width"]

    def _image_name(self, ref: Record) -> tuple[str, tuple[int, int], str]:
        """A referent's image as `ImageFiles` asks for it."""
        name = str(self._images[ref["image_id"]]["file_name"])
        return name, self._shape(ref["image_id"]), f"referent {ref['ref_id']} of {self.refs_path}"

    def _check_annotation(self, annotation: Record, shape: tuple[int, int], ref: Record) -> None:
        try:
            around = rle.extent(annotation["segmentation"], *shape)
        except UNUSABLE as error:
            raise self._bad_segmentation(annotation, ref, error) from None
        form, fit = _box_form(annotation["bbox"], around, shape)
        if form != COCO:
            raise UserError(
                f"{self.instances_path}: the bbox {annotation['bbox']} of annotation {annotation['id']} (referent "
                f"{ref['ref_id']}) looks like {form}; write x, y, width and height in pixels."
            )
        if fit < WRONG:
            self._astray.add(annotation["id"])

    def _mask(self, annotation: Record, shape: tuple[int, int], ref: Record) -> np.ndarray:
        try:
            return rle.rasterize(annotation["segmentation"], *shape)
        except UNUSABLE as error:
            raise self._bad_segmentation(annotation, ref, error) from None

    def _bad_segmentation(self, annotation: Record, ref: Record, error: Exception) -> UserError:
        return UserError(
            f"{self.instances_path}: annotation {annotation['id']} of referent {ref['ref_id']} has an unusable "
            f"segmentation ({error}); correct it or leave the referent out."
        )

    # ------------------------------------------------------------------------------------------------- derived
    def _facts(self, ref: Record, annotations: Sequence[Record], mask: np.ndarray) -> dict[str, Any]:
        """What breakdowns group by. Lists run along the sentences; None where the data does not say."""
        names = [self._names.get(annotation["category_id"]) for annotation in annotations]
        facts: dict[str, Any] = {
            key: [sentence.get(key) for sentence in ref["sentences"]] for key in ("style", "kind", "distractors")
        }
        category = names[0] if len(set(names)) == 1 else None
        facts |= size_facts(mask) | {"targets": len(annotations), "category": category}
        if len(annotations) == 1:
            facts |= {key: annotations[0][key] for key in ("visibility", "color") if key in annotations[0]}
        return facts

    def _semantic_classes(self, kind: bool | str) -> tuple[tuple[str, ...], dict[Any, int]]:
        """The class names, and category id -> class index."""
        if kind not in (True, "category", "supercategory", "bucket"):
            raise UserError(f"semantic={kind!r} is unknown; use category, supercategory or bucket.")
        key = "supercategory" if kind == "supercategory" else "name"
        self._check_fields("category", self.categories, **{key: _is_word})
        self._check_fields("annotation", (ann for anns in self._of_image.values() for ann in anns), area=is_number)
        names = tuple(dict.fromkeys(category[key] for category in self.categories))
        numbers = {name: number for number, name in enumerate(names)}
        if kind == "bucket":
            numbers = {name: zlib.crc32(name.encode()) % BUCKETS for name in names}
            names = tuple(map(str, range(BUCKETS)))
        if len(names) > 254:
            raise UserError(
                f"{self.instances_path}: {len(names)} classes do not fit a class map of 8 bits; "
                f"use semantic=supercategory or bucket."
            )
        return names, {category["id"]: numbers[category[key]] for category in self.categories}

    def _class(self, index: int) -> str | None:
        """The class of a referent's objects, where the dataset was opened with classes and they have one in common."""
        numbers = {self._class_of[ann["category_id"]] for ann in self._anchors(index)} if self._class_of else set()
        return self.classes[numbers.pop()] if len(numbers) == 1 else None

    def _semantic(self, ref: Record, shape: tuple[int, int]) -> np.ndarray:
        """uint8 [H, W]: class index + 1 of the object at each pixel; smaller objects lie on larger ones."""
        classes = np.zeros(shape, np.uint8)
        ordered = sorted(self._of_image.get(ref["image_id"], ()), key=lambda annotation: -annotation["area"])
        for annotation in ordered:
            classes[self._mask(annotation, shape, ref)] = self._class_of[annotation["category_id"]] + 1
        return classes


def _box_form(bbox: Sequence[float], around: Box | None, shape: tuple[int, int]) -> tuple[str, float]:
    """The form that an annotated box seems to have beside the extent of its segmentation, and its IoU with it as it
    stands (1 where the two are as near as they ever are, or cannot be compared)."""
    if around is None or around[2] <= around[0] or around[3] <= around[1]:
        return COCO, 1.0
    own = read_as(COCO, bbox, shape)
    fit = box_iou(_within(own, shape), _within(around, shape))
    if fit >= SURE or max(abs(a - b) for a, b in zip(own, around, strict=True)) <= NEAR:
        return COCO, 1.0
    fits = {form: box_iou(read_as(form, bbox, shape), around) for form in FORMS}
    best = max(fits, key=fits.__getitem__)
    return (best if fits[best] >= SURE else COCO), fit


def _within(box: Box, shape: tuple[int, int]) -> Box:
    height, width = shape
    return max(0.0, box[0]), max(0.0, box[1]), min(float(width), box[2]), min(float(height), box[3])


def _is_word(value: Any) -> bool:
    return isinstance(value, str | int)


READER = ReferDataset
