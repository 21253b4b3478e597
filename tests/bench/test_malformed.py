"""Malformed files and values, some thousand of them: each is read, or refused in one sentence; never a traceback.

A valid document is taken, and each of its values in turn is replaced by every value of a list, or left out; files are
also cut, and filled with bytes that are no text. The cases are the same in every run.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from bench.config import load_profile
from bench.data.cards import open_dataset
from bench.data.rle import encode
from bench.evaluate.commands import Place, score_file
from bench.records import read_records
from bench.train import settings
from bench.train.checkpoints import load_checkpoint
from bench.train.cost_estimate import machine_of
from bench.train.loop import TrainState
from methods.base import UserError
from methods.files import fill, numbered_lines, read_text
from methods.images import open_image

VALUES: tuple[Any, ...] = (
    None, True, "", "x", "\ud83d", "a\0b", "x" * 300, "../../x", -1, 0, 0.5, 1e308, float("nan"), float("inf"), 10**30,
    10**400, [], [[]], [None], {}, {"x": {}}, [1, 2, 3, 4, 5],
)  # fmt: skip
BYTES = (b"", b"\xff\xfe\x00", b"\0" * 40, b"[" * 20_000, b'{"a":' * 20_000, b"9" * 5000, b'"\\ud800"', b"\xef\xbb\xbf",
         b"null", b"3", b"[]", b"{}", b'"x"', b"[[1,2]]", b"NaN")  # fmt: skip


def mutated(document: Any) -> Iterator[Any]:
    """Every document in which one value is another, or is left out."""
    yield from VALUES
    if isinstance(document, dict):
        for key in document:
            yield {name: each for name, each in document.items() if name != key}
            yield from ({**document, key: each} for each in mutated(document[key]))
        yield {**document, "something": 1}
    elif isinstance(document, list) and document:
        yield from ([each, *document[1:]] for each in mutated(document[0]))
        yield [*document, document[0]]


def contents(document: Any, dump: Any = json.dumps) -> Iterator[bytes]:
    """Files: those of the mutated documents, cut ones, and bytes of other kinds."""
    whole = dump(document).encode()
    yield from (whole[:size] for size in (1, len(whole) // 3, len(whole) - 1))
    yield from BYTES
    for each in mutated(document):
        try:
            yield dump(each).encode("utf-8", "surrogatepass")
        except ValueError:  # the library that writes the case has limits of its own
            continue


def is_a_sentence(act: Any, *words: Any) -> bool:
    """Whether something is refused; what it is refused with is one sentence."""
    try:
        act(*words)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1500, str(error)
        str(error).encode("utf-8", "backslashreplace")
        return True
    return False


RECORD = {"method": "m", "metric": "ciou", "value": 0.5, "dataset": "d", "split": "val", "protocol": "p", "n": 3,
          "low": 0.4, "versions": {"torch": "2"}, "seed": 1}  # fmt: skip


def test_records(tmp_path):
    path, refused = tmp_path / "r.jsonl", 0
    for content in contents(RECORD):
        path.write_bytes(content)
        refused += is_a_sentence(read_records, path)
    assert refused > 60


PROFILE = {
    "name": "small", "data": {"root": "data/x", "mixture": {"refmoji": {"repeat": 1.0}}}, "seed": 1,
    "stages": {"base": {"method": "boxes", "stage": "pretrain", "steps": 5, "betas": [0.9, 0.98],
                        "tasks": {"box": 1.0}, "model": {"size": "tiny"}}},
    "models": {"boxes": "base"}, "evaluate": {"splits": ["val"], "limit": 0}, "runs": "runs",
}  # fmt: skip


def test_profiles(tmp_path):
    path, refused = tmp_path / "small.yaml", 0
    files = contents(PROFILE, lambda value: yaml.dump(value, Dumper=yaml.CSafeDumper, allow_unicode=True))
    for content in islice(files, 0, None, 5):
        path.write_bytes(content)
        refused += is_a_sentence(load_profile, path)
    assert refused > 60


KEYS = ("seed", "train.threads", "train.save_minutes", "stages.base.lr", "stages.base.betas", "stages.base.steps",
        "evaluate.limit", "evaluate.splits", "data.root", "stages.base.tasks", "stages.base.model.size", "stages.base",
        "latency.price", "train", "", ".", "stages.base.lr.x", "stages..x")  # fmt: skip
WORDS = ("", "-1", "nan", "inf", "1e400", "9" * 5000, "\udce9", "\0", "[", "{", "[[]]", "{a: b}", "null", "x" * 300,
         "${",
         "${seed}", "${runs}", "???", "!!python/object:os.system x", "&a [*a]", "a: b: c", "%")  # fmt: skip


def test_words_of_the_command_line(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(PROFILE))
    refused = sum(is_a_sentence(load_profile, path, [f"{key}={word}"]) for key in KEYS for word in WORDS)
    assert refused > 60
    for key in ("gpus", "memory", "mfu", "text", "answer", "tiles"):
        for word in WORDS:
            assert is_a_sentence(machine_of, {key: word})


MASK = np.zeros((12, 16), bool)
MASK[2:8, 3:9] = True
SQUARE = [3, 2, 9, 2, 9, 8, 3, 8]
INSTANCES = {
    "images": [{"id": 1, "file_name": "a.png", "width": 16, "height": 12}],
    "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 36, "bbox": [3, 2, 6, 6],
                     "segmentation": [SQUARE]}],
    "categories": [{"id": 1, "name": "box", "supercategory": "thing"}],
}  # fmt: skip
REFS = [{"ref_id": 0, "ann_id": 5, "image_id": 1, "split": "val", "category_id": 1, "file_name": "a.png",
         "sent_ids": [7],
         "sentences": [{"sent_id": 7, "sent": "the box", "raw": "the box", "tokens": ["the", "box"]}]}]  # fmt: skip


@pytest.fixture
def refcoco(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (16, 12)).save(tmp_path / "images" / "a.png")
    (tmp_path / "instances.json").write_text(json.dumps(INSTANCES))
    (tmp_path / "refs(unc).json").write_text(json.dumps(REFS))
    return tmp_path


@pytest.mark.parametrize(("name", "document"), [("instances.json", INSTANCES), ("refs(unc).json", REFS)])
def test_datasets(refcoco, name, document):
    def read() -> None:
        dataset = open_dataset("refcoco", refcoco, "val")
        list(dataset), list(dataset.texts()), dataset.by_image()

    assert not is_a_sentence(read)
    refused = 0
    for content in islice(contents(document), 0, None, 3):
        (refcoco / name).write_bytes(content)
        refused += is_a_sentence(read)
    assert refused > 50


TOKENS = "<|mt_start|><|mt_7|><|mt_end|>"
FORMS = {
    "refcoco": ("refcoco_val.json", [
        {"image_info": {"file_name": "a.png", "height": 12, "width": 16, "id": 4}, "instruction": [{"sent": "the box"}],
         "anns": [{"segmentation": [SQUARE], "bbox": [3, 2, 6, 6], "iscrowd": 0}]}]),
    "refcoco-rec": ("refcoco_val.jsonl", {"image": "data/a.png", "sent": "the box", "bbox": [3, 2, 9, 8], "height": 12,
                                          "width": 16}),
    "mask-perception": ("mask_perception.json", [
        {"image": "data/a.png", "question": f"What is {TOKENS}? A. a box B. a star", "answer": "B"}]),
    "conversations": ("rows.jsonl", {"image": "a.png", "mask": "m.png", "conversations": [
        {"from": "human", "value": "<image> Segment <ref>it</ref>."}, {"from": "gpt", "value": f"Here: {TOKENS}."}]}),
    "reasonseg": ("val/a.json", {"text": ["the box"], "is_sentence": False,
                                 "shapes": [{"label": "ignore", "points": [[1, 2], [7, 2], [7, 9.5]]}]}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_datasets(name, tmp_path):
    def read() -> None:
        dataset = open_dataset(name, tmp_path, images=tmp_path / "images")
        dataset.check()
        list(dataset), list(dataset.texts()), dataset.by_image(), dataset.remarks()

    file, document = FORMS[name]
    for folder in ("images", "val"):
        (tmp_path / folder).mkdir()
    for image in ("a.png", "m.png"):
        Image.new("RGB", (16, 12)).save(tmp_path / "images" / image)
    (tmp_path / file).write_text(json.dumps(document))
    assert not is_a_sentence(read)
    refused = 0
    for content in islice(contents(document), 0, None, 3):
        (tmp_path / file).write_bytes(content)
        refused += is_a_sentence(read)
    assert refused > 25


LINE = {"dataset": "refcoco", "split": "val", "protocol": "per_expression", "ref_id": 0, "sent_id": 0, "image_id": 1,
        "expression": "the box", "size": [12, 16], "mask": encode(MASK), "box": [3, 2, 9, 8], "text": "x",
        "token_ids": [1], "steps": 3, "failure": None}  # fmt: skip


@pytest.mark.slow
def test_predictions(refcoco, capsys):
    path, refused = refcoco / "p.jsonl", 0
    place = Place(root=refcoco)
    path.write_text(json.dumps(LINE))
    assert not is_a_sentence(score_file, path, place)
    for content in contents(LINE):
        path.write_bytes(content)
        refused += is_a_sentence(score_file, path, place)
        for made in refcoco.glob("p.*.jsonl"):
            made.unlink()
    assert refused > 60


def test_what_stands_beside_a_training(tmp_path):
    now = {"stages": {"a": {"lr": 0.1, "parts": {"x": 1}}}, "data": {"images": ""}, "train": {"precision": "auto"}}
    for content in contents(now):
        (tmp_path / settings.FILE).write_bytes(content)
        is_a_sentence(settings.compare, tmp_path, now)
    state = {"step": 3, "mean": 0.5, "broken": 0, "lines": {"train.jsonl": 2}}
    folder = tmp_path / "checkpoint-00000003"
    folder.mkdir()
    (folder / "tensors.safetensors").write_bytes(b"x")
    refused = sum(is_a_sentence(fill, TrainState, each, "the checkpoint", "remove it") for each in mutated(state))
    assert refused > 40
    for content in contents(state):
        (folder / "state.json").write_bytes(content)
        assert load_checkpoint(tmp_path) is None


@pytest.mark.filterwarnings("ignore")  # Pillow tells what it finds in a damaged file
def test_lists_and_images(tmp_path):
    for content in BYTES:
        (tmp_path / "list.tsv").write_bytes(content)
        is_a_sentence(lambda: numbered_lines(read_text(tmp_path / "list.tsv", "give a list")))
        (tmp_path / "a.png").write_bytes(content)
        assert is_a_sentence(open_image, tmp_path / "a.png")
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        path = tmp_path / f"a.{kind}"
        Image.effect_noise((24, 18), 60).save(path, kind)
        whole = path.read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 40)):
            path.write_bytes(whole[:at] + b"\xff\x00\x81" + whole[at + 3 :])
            is_a_sentence(open_image, path)
            path.write_bytes(whole[:at])
            is_a_sentence(open_image, path)
