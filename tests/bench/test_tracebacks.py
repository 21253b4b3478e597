"""All entrances under malformed files and values, drawn from a seed: how many end in a traceback, of how many.

`python -m pytest -m slow -s tests/bench/test_tracebacks.py` prints the number.
"""

import json
import pickle
import random
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from bench.cli import datasets
from bench.cli.parity import check as check_parity
from bench.config import load_profile
from bench.data import cards
from bench.data.cards import load_card, open_dataset
from bench.evaluate.commands import Place, compare_files, score_file
from bench.inference.segment import segment_list
from bench.records import read_records
from bench.report.build import build as build_report
from bench.train import settings
from bench.train.checkpoints import load_checkpoint
from methods.base import UserError
from methods.images import open_image
from methods.registry import method_class
from tests.bench.test_malformed import (
    BYTES,
    FORMS,
    INSTANCES,
    KEYS,
    LINE,
    PROFILE,
    RECORD,
    REFS,
    WORDS,
    contents,
    mutated,
)

EACH = 80  # cases of an entrance
Case = Callable[[], Any]  # reads what it has written before


def sampled(files: Iterator[Any], generator: random.Random, count: int = EACH) -> list[Any]:
    """Some of all files of an entrance, in any order."""
    found = list(files)
    return generator.sample(found, min(count, len(found)))


def as_yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=yaml.CSafeDumper, allow_unicode=True)


def pickles(document: Any) -> Iterator[bytes]:
    """The same for pickles; some of them name classes, or are cut."""
    whole = pickle.dumps(document)
    yield from (whole[:size] for size in (1, len(whole) // 2, len(whole) - 1))
    yield from (pickle.dumps(each) for each in (Path("x"), 1j, {1, 2}, print, [Path("x")]))
    yield from (whole[:at] + b"\xff" + whole[at + 1 :] for at in range(0, len(whole), 7))
    yield from (pickle.dumps(each, protocol) for each in mutated(document) for protocol in (0, 2))


def written(path: Path, files: list[bytes], act: Case) -> Iterator[Case]:
    """A case for each content of one file, which is as before in the end."""
    for content in files:

        def case(content: bytes = content) -> Any:
            before = path.read_bytes() if path.exists() else None
            path.write_bytes(content)
            try:
                return act()
            finally:
                path.unlink() if before is None else path.write_bytes(before)

        yield case


def read_all(name: str, root: Path) -> None:
    dataset = open_dataset(name, root, "val", images=root / "images")
    dataset.check()
    list(dataset), list(dataset.texts()), dataset.by_image(), dataset.remarks()


@pytest.fixture
def refcoco(tmp_path: Path) -> Path:
    folder = tmp_path / "refcoco"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (16, 12)).save(folder / "images" / "a.png")
    (folder / "instances.json").write_text(json.dumps(INSTANCES))
    (folder / "refs(unc).json").write_text(json.dumps(REFS))
    return folder


def of_datasets(root: Path, refcoco: Path, draw: random.Random) -> Iterator[tuple[str, Iterator[Case]]]:
    for name, document in (("instances.json", INSTANCES), ("refs(unc).json", REFS)):
        files = sampled(contents(document), draw)
        yield name, written(refcoco / name, files, lambda: read_all("refcoco", refcoco))
    other = root / "pickled"
    (other / "images").mkdir(parents=True)
    Image.new("RGB", (16, 12)).save(other / "images" / "a.png")
    (other / "instances.json").write_text(json.dumps(INSTANCES))
    yield "refs.p", written(other / "refs(unc).p", sampled(pickles(REFS), draw), lambda: read_all("refcoco", other))
    for name, (file, document) in FORMS.items():
        folder = root / "forms" / name
        for inner in ("images", "val"):
            (folder / inner).mkdir(parents=True)
        for image in ("a.png", "m.png"):
            Image.new("RGB", (16, 12)).save(folder / "images" / image)
        files = sampled(contents(document), draw, EACH // 2)
        yield name, written(folder / file, files, lambda name=name, folder=folder: read_all(name, folder))


def of_predictions(root: Path, refcoco: Path, draw: random.Random) -> Iterator[tuple[str, Iterator[Case]]]:
    path, good, place = root / "p.jsonl", root / "good.jsonl", Place(root=refcoco)
    good.write_text(json.dumps(LINE))

    def score() -> None:
        try:
            score_file(path, place)
        finally:
            for made in root.glob("p.*.jsonl"):
                made.unlink()

    yield "score", written(path, sampled(contents(LINE), draw), score)
    score_file(good, place)
    row = json.loads((root / "good.scores.jsonl").read_text())
    yield "compare", written(path, sampled(contents(row), draw), lambda: compare_files(path, good, place))


def of_settings(root: Path, draw: random.Random) -> Iterator[tuple[str, Iterator[Case]]]:
    path = root / "small.yaml"
    yield "profiles", written(path, sampled(contents(PROFILE, as_yaml), draw), lambda: load_profile(path))
    base = root / "base.yaml"
    base.write_text(as_yaml(PROFILE))
    words = sampled(iter([f"{key}={word}" for key in KEYS for word in WORDS]), draw)
    yield "overrides", ((lambda word=word: load_profile(base, [word])) for word in words)
    now = {"stages": {"a": {"lr": 0.1, "parts": {"x": 1}}}, "data": {"images": ""}, "train": {"precision": "auto"}}
    files = sampled(contents(now), draw, EACH // 2)
    yield "settings of a stage", written(root / settings.FILE, files, lambda: settings.compare(root, now))
    state = root / "checkpoint-00000003" / "state.json"
    state.parent.mkdir()
    (state.parent / "tensors.safetensors").write_bytes(b"x")
    files = sampled(contents({"step": 3, "mean": 0.5, "lines": {"train.jsonl": 2}}), draw, EACH // 2)
    yield "train checkpoints", written(state, files, lambda: load_checkpoint(root))


def of_cards(root: Path, draw: random.Random) -> Iterator[tuple[str, Iterator[Case]]]:
    documents = {
        name: yaml.safe_load((cards.FOLDER / f"{name}.yaml").read_text()) for name in ("refcoco", "ade20k-150")
    }
    folder = root / "cards"
    folder.mkdir()
    (folder / "grefcoco.yaml").write_text((cards.FOLDER / "grefcoco.yaml").read_text())

    def act(name: str) -> None:
        assert "grefcoco" in [row["name"] for row in datasets.list_cards()]  # one bad card spoils no other
        load_card(name)
        open_dataset(name, root)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cards, "FOLDER", folder)
        for name, card in documents.items():
            files = sampled(contents(card, as_yaml), draw)
            yield f"card {name}", written(folder / f"{name}.yaml", files, partial(act, name))


def of_results(root: Path, draw: random.Random) -> Iterator[tuple[str, Iterator[Case]]]:
    records = root / "results" / "x" / "records" / "r.jsonl"
    records.parent.mkdir(parents=True)
    yield "records", written(records, sampled(contents(RECORD), draw), lambda: read_records(records))
    files = sampled(contents(RECORD), draw, EACH // 8)  # drawing takes a second
    yield "reports", written(records, files, lambda: build_report(records.parents[1]))
    vectors = root / "vectors"
    vectors.mkdir()
    for name in ("metrics.json", "manifest.json", "meta.json"):
        yield f"parity {name}", written(vectors / name, sampled(contents({"a": [1.0]}), draw, 10),
                                        lambda: check_parity(vectors))  # fmt: skip


def of_images(root: Path, draw: random.Random, profile: Any) -> Iterator[tuple[str, Iterator[Case]]]:
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        path = root / f"a.{kind.lower()}"
        Image.effect_noise((24, 18), 60).save(path, kind)
        whole = path.read_bytes()
        places = [draw.randrange(len(whole)) for _ in range(8)]
        files = [whole[:at] + b"\xff\x00\x81" + whole[at + 3 :] for at in places] + [whole[:at] for at in places]
        yield kind, written(path, files, lambda path=path: open_image(path))
    yield "no images", written(root / "b.png", [*BYTES, b"%!PS-Adobe-3.0 EPSF"], lambda: open_image(root / "b.png"))
    lists = [*BYTES, b"a.png", b"a.png\t", b"nowhere.png\tit", b"\tit", b"a\0b\tit",
             "a.png\t\ud83d".encode("utf-8", "surrogatepass")]  # fmt: skip
    tsv = root / "q.tsv"
    yield "questions", written(tsv, lists, lambda: list(segment_list(profile, tsv, root / "sheet.png")))


def of_checkpoints(root: Path, folder: Path, draw: random.Random) -> Iterator[tuple[str, Iterator[Case]]]:
    copy = root / "model"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())

    def load() -> None:
        method_class("boxes").from_pretrained(copy)

    config = json.loads((copy / "config.json").read_text())
    yield "config.json", written(copy / "config.json", sampled(contents(config), draw), load)
    whole = (copy / "model.safetensors").read_bytes()
    places = [draw.randrange(min(len(whole), 4000)) for _ in range(20)]
    files = [whole[:at] + b"9" + whole[at + 1 :] for at in places] + [whole[:at] for at in places] + list(BYTES)
    yield "weights", written(copy / "model.safetensors", files, load)
    yield "tokenizer", written(copy / "tokenizer.json", [*BYTES, b'{"model": 3}', b'{"version": "1.0"}'], load)


def fault_of(case: Case) -> str | None:
    """What a case did besides being read, or being refused in one sentence; None if nothing."""
    try:
        case()
    except UserError as error:
        return None if "\n" not in str(error) and len(str(error)) < 1500 else f"no sentence: {str(error)[:300]!r}"
    except (Exception, SystemExit):
        return traceback.format_exc(limit=-3)
    return None


def run(groups: Iterator[tuple[str, Iterator[Case]]], most: int | None) -> tuple[int, list[str]]:
    """(number of cases, what went wrong); `most` of each entrance."""
    count, found = 0, []
    for name, cases in groups:
        for case in islice(cases, most):
            count += 1
            fault = fault_of(case)
            found += [f"{name}: {fault}"] if fault else []
    return count, found


@pytest.mark.filterwarnings("ignore")  # Pillow tells what it finds in a damaged file
@pytest.mark.parametrize("most", [2, pytest.param(None, marks=pytest.mark.slow)])
def test_no_malformed_input_ends_in_a_traceback(tmp_path, refcoco, backbone_folder, most, capsys):
    draw = random.Random(599)
    profile = load_profile("nano")
    made = [
        of_datasets(tmp_path, refcoco, draw), of_predictions(tmp_path, refcoco, draw), of_settings(tmp_path, draw),
        of_cards(tmp_path, draw), of_results(tmp_path, draw), of_images(tmp_path, draw, profile),
        of_checkpoints(tmp_path, backbone_folder, draw),
    ]  # fmt: skip
    count, found = 0, []
    for groups in made:
        got, wrong = run(groups, most)
        count, found = count + got, found + wrong
    with capsys.disabled():
        print(f"\n{len(found)} tracebacks of {count}")
    assert count >= (599 if most is None else 60)
    assert found == [], "\n".join(found)
