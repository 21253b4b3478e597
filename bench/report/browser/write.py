"""Write the sample browser: a folder with a page, its data as scripts and the images, or one page that holds all.

    index.html      the page; opens from a disk, needs nothing from outside
    samples.js      what is known of every sample but its masks, read at once
    masks/0000.js   the masks of 64 samples as run lengths, read when one of them is to be seen
    images/0000.webp

Masks and images have at most 512 pixels on a side. Names of files are counted, so that nothing of the data is in them.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from bench.data import rle
from bench.data.dataset import Dataset
from bench.outputs import LIST, Outputs
from bench.progress import Progress
from bench.report.browser.samples import Place, Sample, facts_of, iou, titles
from bench.report.browser.steps import Step
from bench.report.names import place_name
from bench.report.page import TEMPLATES
from methods.base import Example, UserError, mask_of
from methods.files import printable
from methods.images import open_image

SIDE = 512  # pixels of the longer side at most
CHUNK = 64  # samples whose masks lie in one file
AT_ONCE = 256  # files that are written together
OpenDataset = Callable[[str, str], Dataset]  # (dataset, split) -> its examples
Steps = Mapping[str, Mapping[str, Sequence[Step]]]  # label of a method -> name of a sample -> its masks on the way
UNSAFE = str.maketrans({each: f"\\u{ord(each):04x}" for each in "<>&"})  # what could end a script in a page


@dataclass
class Drawn:
    """What the files are made of. images: content by number."""

    samples: list[dict[str, Any]] = field(default_factory=list)
    masks: list[dict[str, Any]] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)


def draw(samples: Sequence[Sample], methods: Sequence[str], open_dataset: OpenDataset, steps: Steps) -> Drawn:
    """Facts, masks and images of the samples. Those of a dataset whose images are not at hand are left out, with a
    sentence on stderr; raises UserError if none is left."""
    drawn, reasons = Drawn(), dict[Place, str]()
    with Progress("samples", len(samples)) as progress:
        for place in dict.fromkeys(sample.place for sample in samples):
            here = [sample for sample in samples if sample.place == place]
            try:
                for sample, example, number in _examples(here, open_dataset(*place[:2]), drawn):
                    _add(drawn, sample, example, number, methods, steps)
                    progress.advance()
            except UserError as error:
                reasons[place] = str(error)
    for place, reason in reasons.items():
        print(printable(f"Samples of {' '.join(place)} left out: {reason}"), file=sys.stderr)
    if not drawn.samples:
        raise UserError(next(iter(reasons.values())))
    return drawn


def _examples(samples: Sequence[Sample], dataset: Dataset, drawn: Drawn) -> Iterator[tuple[Sample, Example, int]]:
    """Each sample with its example and the number of its image; samples of one image share one."""
    places = {str(dataset.info(index).ref_id): index for index in range(len(dataset))}
    numbers: dict[str, int] = {}
    for sample in samples:
        if str(sample.ref_id) not in places:
            raise UserError(f"There is no reference {sample.ref_id}; run `genseg eval` on these data again.")
        example = dataset[places[str(sample.ref_id)]]
        if str(example.image_id) not in numbers:
            numbers[str(example.image_id)] = len(drawn.images)
            drawn.images.append(_webp(open_image(example.image)))
        yield sample, example, numbers[str(example.image_id)]


def _webp(image: Image.Image) -> bytes:
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.save(buffer := io.BytesIO(), "WEBP", quality=80)
    return buffer.getvalue()


def _add(
    drawn: Drawn, sample: Sample, example: Example, image: int, methods: Sequence[str], steps: Steps
) -> None:  # fmt: skip
    truth = mask_of(example)
    masks = {method: rle.decode(row["mask"]) for method, row in sample.answers.items()}
    facts = facts_of(sample, methods, masks)
    onto = _scale(truth.shape)
    decoded = [steps.get(method, {}).get(sample.name, ()) for method in methods]
    drawn.masks.append({
        "truth": _runs(truth, onto),
        "answers": [_runs(masks[method], onto) if method in masks else None for method in methods],
        "steps": [[[count, _runs(mask, onto), round(iou(mask, truth), 4)] for count, mask in each] for each in decoded],
    })  # fmt: skip
    facts |= {"place": " / ".join(sample.place), "image": image, "frame": list(onto), "whole": list(truth.shape)}
    drawn.samples.append(facts | {"stepped": any(decoded)})


def _scale(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width in which masks of that shape are kept."""
    factor = min(1.0, SIDE / max(shape))
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def _runs(mask: np.ndarray, onto: tuple[int, int]) -> str:
    """Run lengths of a mask in the frame of `onto` = (H, W)."""
    if mask.shape != onto:
        mask = cv2.resize(mask.astype(np.uint8), onto[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    return str(rle.encode(mask)["counts"])


def head_of(title: str, methods: Sequence[str], samples: Sequence[Sample]) -> dict[str, Any]:
    """What the page says of all samples."""
    places = {" / ".join(sample.place): place_name(*sample.place) for sample in samples}
    return {"title": title, "methods": titles(methods), "places": places, "chunk": CHUNK}


def one_page(head: Mapping[str, Any], drawn: Drawn) -> str:
    """A page that holds all samples and their images."""
    images = [f"data:image/webp;base64,{base64.b64encode(image).decode()}" for image in drawn.images]
    return _page(str(head["title"]), _script("samples", {**head, "samples": drawn.samples, "images": images})
                 + "".join(_chunks(drawn).values()))  # fmt: skip


def folder_files(head: Mapping[str, Any], drawn: Drawn) -> dict[str, str | bytes]:
    """Name -> content of the files of a folder, the page last."""
    images = [f"images/{number:04d}.webp" for number in range(len(drawn.images))]
    files: dict[str, str | bytes] = dict(zip(images, drawn.images, strict=True))
    files |= {f"masks/{number:04d}.js": text for number, text in _chunks(drawn).items()}
    files["samples.js"] = _script("samples", {**head, "samples": drawn.samples, "images": images})
    return files | {"index.html": _page(str(head["title"]))}


def _chunks(drawn: Drawn) -> dict[int, str]:
    """Number -> script with the masks of so many samples."""
    starts = range(0, len(drawn.masks), CHUNK)
    return {i: _script("masks", i, drawn.masks[start : start + CHUNK]) for i, start in enumerate(starts)}


def _script(name: str, *values: Any) -> str:
    """A call of the page's function of that name. No text of the data can end the script, or be a tag."""
    told = (json.dumps(value, separators=(",", ":")).translate(UNSAFE) for value in values)
    return f"genseg.{name}({','.join(told)});\n"


def _page(title: str, data: str = "") -> str:
    return TEMPLATES.get_template("browser.html").render(title=title, data=data) + "\n"


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write the files of a browser, and remove what an earlier one had beside them; -> the page.

    Raises UserError, before anything changes, for files in the folder that were not written here.
    """
    outputs = Outputs(folder)
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()} - {LIST}
    outputs.check(there)
    outputs.remove(there - files.keys())
    names = list(files)
    for start in range(0, len(names), AT_ONCE):
        outputs.write({name: files[name] for name in names[start : start + AT_ONCE]})
    return folder / "index.html"
