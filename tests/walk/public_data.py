"""Small datasets in the public forms that the bundled profile compare-8b reads: drawn images, and files as they are
published, laid out as docs/data.md says. Every split has three images with three objects each."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"red": (200, 40, 40), "green": (40, 160, 70), "blue": (50, 70, 210)}
WIDTH, HEIGHT = 96, 72
RES = {"refcoco": ("val", "testA", "testB"), "refcoco+": ("val", "testA", "testB"), "refcocog": ("val", "test"),
       "grefcoco": ("val", "testA", "testB")}  # fmt: skip
VOID = 255


class Thing(NamedTuple):
    """An object of an image: colour, and x1, y1, x2, y2 in pixels."""

    colour: str
    box: tuple[int, int, int, int]

    @property
    def polygon(self) -> list[float]:
        x1, y1, x2, y2 = self.box
        return [x1, y1, x2, y1, x2, y2, x1, y2]

    @property
    def annotation(self) -> dict[str, Any]:
        x1, y1, x2, y2 = self.box
        return {"segmentation": [self.polygon], "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
                "category_id": 1, "iscrowd": 0}  # fmt: skip

    @property
    def sentences(self) -> list[str]:
        return [f"the {self.colour} box", f"the box that is {self.colour}"]


def things(number: int) -> list[Thing]:
    """Those of image `number`."""
    rng = np.random.default_rng(number)
    found = []
    for place, colour in enumerate(COLOURS):
        side, top = int(rng.integers(12, 28)), int(rng.integers(2, HEIGHT - 32))
        found.append(Thing(colour, (place * WIDTH // 3 + 2, top, place * WIDTH // 3 + 2 + side, top + side)))
    return found


def draw(path: Path, number: int) -> None:
    """Write image `number`."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (110 + 5 * (number % 10), 105, 100))
    for thing in things(number):
        x1, y1, x2, y2 = thing.box
        ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), COLOURS[thing.colour])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def coco_name(number: int) -> str:
    return f"COCO_train2014_{number:012d}.jpg"


def numbers(place: int) -> range:
    """The images of the `place`th split of a dataset."""
    return range(10 * place + 1, 10 * place + 4)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_data(root: Path) -> None:
    """All datasets of compare-8b below a folder."""
    for number in {number for splits in RES.values() for place in range(len(splits)) for number in numbers(place)}:
        draw(root / "coco/train2014" / coco_name(number), number)
    for name in ("refcoco", "refcoco+"):
        for place, split in enumerate(RES[name]):
            write_json(root / f"res/{name}/{name}_{split}.json", list(psalm_items(numbers(place))))
    write_refer(root / "refcocog/refs(umd).p", "refcocog", no_target=False)
    write_refer(root / "grefcoco/grefs(unc).json", "grefcoco", no_target=True)
    for name in ("refcoco", "refcoco+", "refcocog"):
        for place, split in enumerate(RES[name]):
            write_rec(root / f"rec/{name}_{split}.jsonl", numbers(place))
    for place, split in enumerate(("val", "test")):
        for number in numbers(place):
            write_reason(root / f"ReasonSeg/{split}/{number}", number)
    write_perception(root / "Mask_Perception/mask_perception.json")
    write_classes(root)


def write_training(root: Path) -> None:
    """What a training on RefCOCO, RefCOCO+ and RefCOCOg needs below a folder, in PSALM's form."""
    for split, images in (("train", numbers(9)), ("val", numbers(0))):
        for number in images:
            draw(root / "coco/train2014" / coco_name(number), number)
        for name in ("refcoco", "refcoco+", "refcocog"):
            write_json(root / f"res/{name}/{name}_{split}.json", list(psalm_items(images)))


def psalm_items(images: Sequence[int]) -> Iterator[dict[str, Any]]:
    """As PSALM converts them: an item per object with all its sentences."""
    for number in images:
        info = {"file_name": coco_name(number), "height": HEIGHT, "width": WIDTH, "id": number}
        for thing in things(number):
            sentences = [{"sent": text, "sent_id": i} for i, text in enumerate(thing.sentences)]
            yield {"image_info": info, "instruction": sentences, "anns": [thing.annotation]}


def write_refer(path: Path, name: str, no_target: bool) -> None:
    """REFER's form, pickled, or gRefCOCO's in JSON: a reference to each object, to two of them, and to none."""
    images, annotations, refs = [], [], []
    for place, split in enumerate(RES[name]):
        for number in numbers(place):
            images.append({"id": number, "file_name": coco_name(number), "height": HEIGHT, "width": WIDTH})
            ids = [10 * number + i for i in range(3)]
            for ann_id, thing in zip(ids, things(number), strict=True):
                annotations.append({"id": ann_id, "image_id": number, **thing.annotation})
                refs.append(([ann_id] if no_target else ann_id, number, split, thing.sentences))
            if no_target:
                refs += [(ids[:2], number, split, ["the red and the green box"]), ([-1], number, split, ["a horse"])]
    categories = [{"id": 1, "name": "box"}]
    write_json(path.parent / "instances.json",
               {"images": images, "annotations": annotations, "categories": categories})  # fmt: skip
    rows = [
        {"ref_id": i, "ann_id": ann_id, "image_id": number, "split": split, "category_id": 1,
         "sentences": [{"sent": text, "raw": text, "sent_id": k, "tokens": text.split()}
                       for k, text in enumerate(texts)]}
        for i, (ann_id, number, split, texts) in enumerate(refs)
    ]  # fmt: skip
    path.write_bytes(pickle.dumps(rows, 2) if path.suffix == ".p" else json.dumps(rows).encode())


def write_rec(path: Path, images: Sequence[int]) -> None:
    """Qwen-VL's form: a line per sentence."""
    rows = [
        {"image": f"data/coco/train2014/{coco_name(number)}", "sent": thing.sentences[0], "bbox": list(thing.box),
         "height": HEIGHT, "width": WIDTH}
        for number in images for thing in things(number)
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_reason(path: Path, number: int) -> None:
    """LISA's form: a target, and a region that is ignored."""
    first, second, _ = things(number)
    shapes = [{"label": label, "points": np.reshape(thing.polygon, (-1, 2)).tolist()}
              for label, thing in (("target", first), ("ignore", second))]  # fmt: skip
    draw(path.with_suffix(".jpg"), number)
    write_json(path.with_suffix(".json"), {"text": ["What would stop a car?"], "is_sentence": True, "shapes": shapes})


def write_perception(path: Path) -> None:
    """HiMTok's form: the mask stands in the question."""
    span = "<|mt_start|>" + "".join(f"<|mt_{4 * i + 1}|>" for i in range(32)) + "<|mt_end|>"
    options = "\nA. the red box\nB. the green box\nC. the blue box\nD. a horse"
    question = f"Which describes {span}?{options}\nAnswer with the option's letter."
    rows = [{"image": f"coco/train2014/{coco_name(number)}", "question": question, "answer": answer}
            for number, answer in zip(numbers(0), "ABA", strict=True)]  # fmt: skip
    write_json(path, rows)


def write_classes(root: Path) -> None:
    """Index images in the three layouts: of ADE20K and PASCAL Context the first class is 1, and VOID is ignored."""
    ade, places = root / "ADEChallengeData2016", {}
    for number in numbers(0):
        draw(ade / f"images/validation/ADE_val_{number:08d}.jpg", number)
        places[ade / f"annotations/validation/ADE_val_{number:08d}.png"] = number
    for year, labels, listed in (("2010", "SegmentationClassContext", "SegmentationContext"),
                                 ("2012", "SegmentationClass", "Segmentation")):  # fmt: skip
        folder = root / f"VOCdevkit/VOC{year}"
        ids = [f"2008_{number:06d}" for number in numbers(0)]
        (folder / "ImageSets" / listed).mkdir(parents=True, exist_ok=True)
        (folder / "ImageSets" / listed / "val.txt").write_text("".join(f"{each}\n" for each in ids))
        for each, number in zip(ids, numbers(0), strict=True):
            draw(folder / f"JPEGImages/{each}.jpg", number)
            places[folder / labels / f"{each}.png"] = number
    for path, number in places.items():
        index = np.zeros((HEIGHT, WIDTH), np.uint8)
        for value, thing in zip((2, 7, VOID), things(number), strict=True):
            x1, y1, x2, y2 = thing.box
            index[y1:y2, x1:x2] = value
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(index).save(path)
