"""Writing RefMoji to disk in the layout of COCO and REFER.

    <root>/images/<split>/<image id>.jpg   <root>/instances.json   <root>/refs(genseg).json
    <root>/captions.json                   <root>/dataset.json (written last: the sign of a finished build)

Scenes are made in shards. A finished shard leaves one file under <root>/.parts, so a killed build resumes where it
stopped. Ids follow from split and scene number alone: the bytes do not depend on workers, shards or interruptions.
A second process waits at <root>/.lock, which stays, and finds the work done.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import multiprocessing
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from bench.progress import Progress
from bench.refmoji import manifest
from bench.refmoji.draft import draft, image_facts, redraw
from bench.refmoji.levels import SPLIT_NUMBERS, classes, level_named
from bench.refmoji.lexicon import lexicon
from bench.refmoji.render import Rendering
from bench.refmoji.scene import Scene
from methods import files
from methods.base import UserError
from methods.files import write_atomic, writing

VERSION = 1  # of the generator: raise it when the same seed gives another dataset
SHARD = 50  # scenes
REFS, INSTANCES, CAPTIONS, SUMMARY = "refs(genseg).json", "instances.json", "captions.json", "dataset.json"
PARTS, LOCK = ".parts", ".lock"


@dataclass(frozen=True)
class Plan:
    """What is to be built. `scenes` pairs each split with its number of scenes."""

    level: str
    seed: int
    scenes: tuple[tuple[str, int], ...]
    version: int = VERSION

    def shards(self) -> Iterator[tuple[str, int, int]]:
        """(split, first scene, end) of every shard, in order."""
        for split, count in self.scenes:
            for first in range(0, count, SHARD):
                yield split, first, min(first + SHARD, count)


def plan_of(level: str, splits: Sequence[str] | None, train_scenes: int, seed: int) -> Plan:
    """The plan of a build, with its arguments checked. `splits` None means all of the level."""
    known, sealed = level_named(level).splits, level_named(level).sealed
    wanted = list(known) if splits is None else list(splits)
    for split in wanted:
        if split not in ("train", *known, *sealed):
            names = ", ".join(("train", *known, *sealed))
            raise UserError(f"Level {level!r} has no split {split!r}; choose from {names}.")
    if train_scenes < 0 or ("train" in wanted and not train_scenes):
        raise UserError("The split train needs train_scenes, a number of scenes above 0.")
    counts = {split: len(manifest.load(level)[split]) for split in known if split in wanted}
    counts |= {split: count for split, count in sealed.items() if split in wanted} | {"train": train_scenes}
    ordered = tuple((split, counts[split]) for split in SPLIT_NUMBERS if counts.get(split))
    if not ordered:
        raise UserError("Nothing to build: name at least one split or give train_scenes.")
    return Plan(level, seed, ordered)


def build(
    level: str = "easy",
    root: Path | str = Path("data/refmoji"),
    splits: Sequence[str] | None = None,
    train_scenes: int = 0,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Build a dataset under `root` and return its summary (the content of dataset.json).

    `seed` changes the training scenes and a level's sealed split only; the other splits are frozen. A finished build
    is not repeated.
    Raises UserError if `root` holds another dataset.
    """  # fmt: skip
    root = Path(root)
    plan = plan_of(level, splits, train_scenes, seed)
    done = _finished(root, plan)
    if done is not None and not (root / PARTS).exists():
        return done
    with _alone(root):
        done = _finished(root, plan)
        if done is None:
            _prepare(root, plan)
            missing = [shard for shard in plan.shards() if not _part(root, *shard).exists()]
            _make(root, plan, missing, max(1, workers), progress)
            done = _merge(root, plan)
        shutil.rmtree(root / PARTS, ignore_errors=True)
    return done


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Wait until no other process builds under `root`, and keep others waiting."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = (root / LOCK).open("w")
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror}); give another root.") from None
    with handle:
        try:  # not flock, whose lock workers inherit, and they may outlive a killed build
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            print(f"{root}: another process is building here; waiting for it.", file=sys.stderr)
            fcntl.lockf(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield


# ------------------------------------------------------------------------------------------------ starting, resuming
def _request(plan: Plan) -> dict[str, Any]:
    """The plan as it comes back from JSON."""
    return {**asdict(plan), "scenes": dict(plan.scenes)}


def read_json(path: Path) -> Any:
    """The content of one of the dataset's JSON files."""
    return files.read_json(path, "delete the folder and build again")


def _finished(root: Path, plan: Plan) -> dict[str, Any] | None:
    """The summary of a finished build of this plan; UserError if `root` holds something else."""
    begun = [path for path in (root / SUMMARY, root / PARTS / "plan.json") if path.exists()]
    for path in begun:
        found = read_json(path)
        request = found.get("request", {}) if isinstance(found, dict) else {}
        wanted = _request(plan)
        if path.name == SUMMARY and request == wanted:
            return found
        for key in ("level", "seed", "version"):
            if request.get(key) != wanted[key]:
                raise UserError(
                    f"{root}: holds RefMoji with {key} {request.get(key)!r}, not {wanted[key]!r}; "
                    f"give another root or delete this one."
                )
    foreign = [name for name in (INSTANCES, REFS, CAPTIONS, "images") if (root / name).exists()]
    if foreign and not begun:
        raise UserError(
            f"{root}: holds {', '.join(foreign)} of other data, which nothing may replace; give another root."
        )
    return None


def _prepare(root: Path, plan: Plan) -> None:
    write_atomic(root / PARTS / "plan.json", _dump({"request": _request(plan)}))
    with writing(root):
        for split, _ in plan.scenes:
            (root / "images" / split).mkdir(parents=True, exist_ok=True)


def _part(root: Path, split: str, first: int, end: int) -> Path:
    """The file that a finished shard leaves."""
    return root / PARTS / f"{split}-{first:08d}-{end:08d}.json"


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# --------------------------------------------------------------------------------------------------- making shards
def _make(root: Path, plan: Plan, shards: Sequence[tuple[str, int, int]], workers: int, progress: bool) -> None:
    """Make the missing shards, in this process or in several."""
    total = sum(count for _, count in plan.scenes)
    ready = total - sum(end - first for _, first, end in shards)
    pool = None
    if workers > 1 and len(shards) > 1:
        context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
        pool = ProcessPoolExecutor(workers, mp_context=context)
    with pool or nullcontext(), Progress("RefMoji scenes", total, ready, quiet=not progress) as bar:
        if pool is None:
            for shard in shards:
                bar.advance(by=_make_shard(root, plan, *shard))
            return
        futures = [pool.submit(_make_shard, root, plan, *shard) for shard in shards]
        try:
            for future in as_completed(futures):
                bar.advance(by=future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _make_shard(root: Path, plan: Plan, split: str, first: int, end: int) -> int:
    """Write the images of scenes first..end-1 of a split, then the shard's file. Returns the number of scenes."""
    records = [_scene_record(root, plan, split, index) for index in range(first, end)]
    write_atomic(_part(root, split, first, end), _dump(records))
    return len(records)


def _scene_record(root: Path, plan: Plan, split: str, index: int) -> dict[str, Any]:
    level = level_named(plan.level)
    if split == "train" or split in level.sealed:
        made = draft(level, split, plan.seed, index)
        scene, rendering, annotations = made.scene, made.rendering, made.annotations
        asked, questions = made.referents, made.questions
    else:
        frozen = manifest.load(plan.level)[split][index]
        scene = Scene.from_json(frozen["scene"])
        rendering, annotations = redraw(level, split, scene)
        asked, questions = frozen["referents"], frozen["questions"]
    image_id = (SPLIT_NUMBERS[split] + 1) * 10_000_000 + index
    file_name = f"{split}/{image_id:08d}.jpg"
    _save(rendering, root / "images" / file_name)
    image = {"id": image_id, "file_name": file_name, **image_facts(scene), "split": split}
    return {
        "image": image,
        "annotations": [_with_ids(record, image_id) for record in annotations],
        "refs": [_reference(record, number, image) for number, record in enumerate(asked)],
        "captions": [{"image_id": image_id, "file_name": file_name, "split": split, **record} for record in questions],
    }


def _save(rendering: Rendering, path: Path) -> None:
    content = io.BytesIO()
    rendering.image.save(content, "JPEG", quality=95, subsampling=0)
    write_atomic(path, content.getvalue())


def _with_ids(annotation: dict[str, Any], image_id: int) -> dict[str, Any]:
    head = lexicon()[annotation["sprite"]].head
    return {"id": image_id * 100 + annotation["number"] + 1, "image_id": image_id, "category": head, "iscrowd": 0,
            **annotation}  # fmt: skip


def _reference(record: dict[str, Any], number: int, image: dict[str, Any]) -> dict[str, Any]:
    """One entry of refs(genseg).json. `ann_id` is a list where the referent is not exactly one object."""
    image_id = image["id"]
    ref_id = image_id * 100 + number + 1
    ann_ids = [image_id * 100 + item + 1 for item in record["numbers"]]
    single = len(ann_ids) == 1
    sentences = []
    for place, facts in enumerate(record["sentences"]):
        sent = " ".join(facts["raw"].lower().split())
        sentences.append({"tokens": sent.split(), "sent": sent, "sent_id": ref_id * 10 + place, **facts})
    return {
        "ref_id": ref_id, "ann_id": ann_ids[0] if single else ann_ids, "category_id": record["numbers"],
        "image_id": image_id, "file_name": image["file_name"], "split": image["split"],
        "sent_ids": [sentence["sent_id"] for sentence in sentences], "sentences": sentences,
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------------- merging
def _merge(root: Path, plan: Plan) -> dict[str, Any]:
    """Join the shards into the dataset's files; dataset.json comes last."""
    categories = _categories(level_named(plan.level).name)
    ids = {category["name"]: category["id"] for category in categories}
    counts = {split: {"images": 0, "referents": 0, "sentences": 0} for split, _ in plan.scenes}
    streams: dict[str, list[bytes]] = {key: [] for key in ("images", "annotations", "refs", "captions")}
    for shard in plan.shards():
        split = shard[0]
        for scene in read_json(_part(root, *shard)):
            kinds = {}
            for annotation in scene["annotations"]:
                kinds[annotation["number"]] = annotation["category_id"] = ids[annotation.pop("category")]
            for ref in scene["refs"]:
                found = [kinds[number] for number in ref["category_id"]]
                ref["category_id"] = found[0] if len(found) == 1 else found
            streams["images"].append(_dump(scene["image"]))
            for key in ("annotations", "refs", "captions"):
                streams[key] += [_dump(record) for record in scene[key]]
            counts[split]["images"] += 1
            counts[split]["referents"] += len(scene["refs"])
            counts[split]["sentences"] += sum(len(ref["sentences"]) for ref in scene["refs"])
    head = {"info": {"description": f"RefMoji, level {plan.level}, synthetic", "version": str(plan.version)},
            "licenses": [{"id": 1, "name": "see datasets/refmoji/README.md"}], "categories": categories}  # fmt: skip
    files = {
        INSTANCES: _dump(head)[:-1] + b"".join(
            b',\n"%s":%s' % (key.encode(), _lines(streams[key])) for key in ("images", "annotations")
        ) + b"}\n",
        REFS: _lines(streams["refs"]) + b"\n",
        CAPTIONS: _lines(streams["captions"]) + b"\n",
    }  # fmt: skip
    digest = hashlib.sha256()
    for name, data in files.items():
        digest.update(data)
        write_atomic(root / name, data)
    summary = _summary(plan, counts, digest.hexdigest())
    write_atomic(root / SUMMARY, json.dumps(summary, indent=1).encode() + b"\n")
    return summary


def _lines(records: Iterable[bytes]) -> bytes:
    """A JSON list with one record a line."""
    return b"[" + b",\n".join(records) + b"]"


def _categories(level: str) -> list[dict[str, Any]]:
    """Head nouns as COCO categories, the trained ones first; the supercategory is the subgroup of the first sprite."""
    trained, novel = classes(level)
    heads = [*sorted({entry.head for entry in trained}), *sorted({entry.head for entry in novel})]
    novel_heads = {entry.head for entry in novel}
    return [
        {"id": number, "name": head, "supercategory": lexicon().by_head[head][0].subgroup, "novel": head in novel_heads}
        for number, head in enumerate(heads, 1)
    ]


def _summary(plan: Plan, counts: dict[str, dict[str, int]], digest: str) -> dict[str, Any]:
    return {
        "name": "refmoji", "kind": "synthetic", "level": plan.level, "seed": plan.seed, "digest": digest,
        "counts": counts, "request": _request(plan),
        "versions": {"generator": plan.version, "numpy": np.__version__, "pillow": PIL.__version__},
    }  # fmt: skip
