"""The commands that do several things in a row: train, evaluate, time, report; `reproduce` is all of them.

Every step first looks whether its result is there already and belongs to the same weights, data and settings, so
that a second call is quick and a killed one goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.assets import asset
from bench.config import Profile, resolved
from bench.data.cards import label_of, of_label
from bench.data.mixture import component_configs, embedded, train_root
from bench.data.splits import eval_root, is_embedded, open_split
from bench.evaluate.baselines import BASELINES
from bench.evaluate.breakdown import breakdown
from bench.evaluate.metrics import VERSION
from bench.evaluate.plan import objects_of, plan
from bench.evaluate.predictions import stamp_of
from bench.evaluate.runner import predict_baseline, predict_codec, predict_method
from bench.evaluate.scoring import score_predictions, to_records
from bench.evaluate.validation import validation
from bench.latency import int8, untrained
from bench.latency.scaling import scale
from bench.latency.session import time_paths
from bench.outputs import Outputs, check_lines
from bench.records import Record, read_records, write_records
from bench.refmoji.build import build
from bench.report.build import build as build_report
from bench.report.tables import shown
from bench.runtime import resolve_precision
from bench.train.settings import digest
from bench.train.stages import finished_model, model_of_stage, needed_stages, stage_folder, train_stage
from bench.train.world import join
from methods.base import Decoding, Model, Request, UserError
from methods.files import file_name, printable, read_lines, read_object, write_atomic
from methods.registry import method_class

PACKAGES = ("torch", "transformers")
SEALED = "test"  # the split that is drawn when all choices have been made
SHOWN = 200  # lines of a log, at most, that are shipped


def device_of(name: str = "auto") -> torch.device:
    """The device to run on: the first GPU if there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def prepare_data(profile: Profile, train: bool) -> None:
    """Build the embedded dataset's splits that the profile needs, if they are missing."""
    data = profile.data
    if is_embedded(profile):
        splits = [SEALED] if data.test_seed else None
        build(data.level, eval_root(profile), splits, seed=data.test_seed, workers=data.workers)
    for source in component_configs(profile).values() if train else ():
        if embedded(source.dataset):
            build(
                level=source.level, root=train_root(source), splits=["train"], train_scenes=source.train_scenes,
                seed=data.seed, workers=data.workers,
            )  # fmt: skip


def train(profile: Profile, names: Iterable[str] = ()) -> list[Path]:
    """Train the named stages, or all, with what they build on; alone, or as one of the processes of a launcher."""
    names = list(names)
    for name in names:
        if name not in profile.stages:
            known = ", ".join(profile.stages)
            raise UserError(f"There is no stage {name!r} in profile {profile.name}; choose from {known}.")
    world = join()
    if world.first:
        prepare_data(profile, train=True)
    world.wait()
    order: list[str] = []
    for name in names or profile.stages:
        order += [s for s in needed_stages(profile, name) if s not in order]
    models = [train_stage(profile, name, resolved(profile), device_of(), world, validation) for name in order]
    world.leave()
    return models


def shipped_model(profile: Profile, method: str) -> Path:
    return profile.results_dir / "checkpoints" / method


def find_model(profile: Profile, method: str) -> Path:
    """The folder of a method's weights: shipped, or trained before with the profile's settings.

    Raises UserError if there are none: only `train`, `study` and `reproduce` train.
    """
    stage = profile.models[method]
    found = existing_model(profile, method)
    if found is None:
        places = [str(stage_folder(profile, stage))] + [str(shipped_model(profile, method))] * profile.ship
        raise UserError(
            f"There are no weights of {method} in {' or '.join(places)}; train them with `genseg train {stage}` and "
            "the same profile, or name the folder that has them with runs= or results=."
        )
    return found


def existing_model(profile: Profile, method: str) -> Path | None:
    """The same, None if there are no weights yet."""
    places = [shipped_model(profile, method)]
    if profile.results_dir == Path("results", profile.name):  # the usual place, in this folder or with the code
        places.append(asset("results", profile.name, "checkpoints", method))
    for shipped in places if profile.ship else ():
        if (shipped / "config.json").is_file():
            return shipped
    return finished_model(profile, profile.models[method])


def ship(profile: Profile) -> list[Path]:
    """Copy the trained models as float16 to results/<profile>/checkpoints, from where `reproduce` takes them, and the
    logs of their training to results/<profile>/logs. Raises UserError if something else is in their place."""
    outputs, folders = Outputs(profile.results_dir), []
    for method, stage in profile.models.items():
        trained = method_class(method).from_pretrained(model_of_stage(profile, stage))
        with tempfile.TemporaryDirectory(dir=profile.runs_dir, prefix=".tmp-") as made:
            draft = Path(made) / method
            trained.save_pretrained(draft, "float16", max_shard_size="15MB")
            words = read_object(draft / "tokenizer.json", "save the model again")
            write_atomic(draft / "tokenizer.json", json.dumps(words, ensure_ascii=False))  # half the size, unindented
            folders.append(outputs.write_folder(f"checkpoints/{method}", draft, "config.json"))
        for name in needed_stages(profile, stage):
            for log in ("train.jsonl", "validation.jsonl"):
                _keep_log(profile, name, log)
    return folders


def _keep_log(profile: Profile, stage: str, log: str) -> None:
    """Copy the log of a stage that ran here, or some of its lines if it is long, to results/<profile>/logs."""
    path = stage_folder(profile, stage) / log
    if path.is_file():
        lines = path.read_text().splitlines(keepends=True)
        kept = "".join(lines[:: -(-len(lines) // SHOWN) or 1])
        Outputs(profile.results_dir).write({f"logs/{stage}/{log}": kept})


def evaluate(profile: Profile) -> list[Record]:
    """Predictions, scores and records of every method, codec and baseline on every split, a file of records each.

    Records of other splits stay, unless they belong to weights that are no longer the profile's."""
    folders = {name: find_model(profile, name) for name in profile.models}
    prepare_data(profile, train=False)
    torch.set_num_threads(profile.evaluate.threads)
    records: list[Record] = []
    datasets = {split: checked_split(profile, split) for split in profile.evaluate.splits}
    for name, folder in folders.items():
        method = method_class(name).from_pretrained(folder).to(device_of())
        for split, dataset in datasets.items():
            records += _evaluate_method(profile, name, method, digest(folder), split, dataset)
    for name in BASELINES:
        for split, dataset in datasets.items():
            place = named(profile, split)
            identity = {"method": name, "data": dataset.digest()}
            paths = predict_baseline(name, identity, dataset, place, profile.evaluate, predictions_dir(profile))
            records += [r for path in paths for r in shown(score(profile, path, dataset, {"method": name}))]
    folder = profile.results_dir / "records"
    present = {(record.method, record.checkpoint) for record in records}
    for path in folder.glob("scores-*.jsonl"):
        if not {(record.method, record.checkpoint) for record in read_records(path)} <= present:
            path.unlink()
    for split in profile.evaluate.splits:
        path = folder / f"scores-{named(profile, split)}.jsonl"
        write_records(path, [record for record in records if record.split == split])
    return records


def _evaluate_method(
    profile: Profile, name: str, method: Model, weights: str, split: str, dataset: Any
) -> list[Record]:
    place = named(profile, split)
    identity = {"method": name, "weights": weights, "data": dataset.digest()}
    facts = facts_of(profile, name, weights, profile.evaluate.precision, method)
    records = []
    folder = predictions_dir(profile)
    for rule in profile.evaluate.decode_rules:
        asked, told = _under(rule, profile.evaluate.temperature)
        decoding = Decoding(rule=rule, temperature=profile.evaluate.temperature)
        paths = predict_method(method, identity | asked, dataset, place, profile.evaluate, folder, decoding=decoding)
        for path in paths:
            records += score(profile, path, dataset, facts | told)
            if path.stem.endswith("per_expression"):
                rows = [row for _, row in read_lines(scores_of(profile, path))]
                records += breakdown(rows, dataset.objects, profile.evaluate.seed, **facts)
    if method.mask_tokenizer is not None:
        for path in predict_codec(method.mask_tokenizer, identity, dataset, place, profile.evaluate, folder):
            tokens = int(path.stem.rsplit("-", 1)[1])
            records += shown(score(profile, path, dataset, facts | {"variant": f"tokens={tokens}"}))
    return records


def _under(rule: str, temperature: float) -> tuple[dict[str, Any], dict[str, str]]:
    """What a rule of decoding adds to an identity and to the facts of records; nothing for the official one."""
    if rule == "official":
        return {}, {}
    if rule == "hard":
        return {"rule": rule}, {"variant": f"rule={rule}"}
    warmth = "" if temperature == 1 else f", temperature={temperature:g}"
    return {"rule": rule, "temperature": temperature}, {"variant": f"rule={rule}{warmth}"}


def score(profile: Profile, path: Path, dataset: Any, facts: dict[str, Any]) -> list[Record]:
    """Score a predictions file, keep the scores beside it, and aggregate them; done once per content, truth and
    metrics."""
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    stamp = stamp_of(content=content, data=dataset.digest(), metrics=VERSION, code=version("genseg-bench"))
    scores = scores_of(profile, path)
    stamp_file = scores.with_suffix(".stamp")
    if not (scores.exists() and stamp_file.exists() and stamp_file.read_text() == stamp):
        check_lines(scores, "intersection")
        rows = score_predictions(path, dataset)
        write_atomic(scores, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        write_atomic(stamp_file, stamp)
    rows = [row for _, row in read_lines(scores)]
    return to_records(rows, seed=profile.evaluate.seed, note="; ".join(dataset.remarks()), **facts)


def scores_of(profile: Profile, path: Path) -> Path:
    """Where the scores of a predictions file are."""
    return profile.runs_dir / "scores" / path.relative_to(predictions_dir(profile))


def time_methods(profile: Profile) -> list[Record]:
    """Latency of every method on the validation split, or of architectures with random weights -> records; measured
    once per weights, data and settings, and written after every method."""
    if profile.latency.untrained:
        return _time_untrained(profile)
    folders = {name: find_model(profile, name) for name in profile.models}
    prepare_data(profile, train=False)
    config = profile.latency
    torch.set_num_threads(config.threads)
    dataset = open_split(profile, "val")
    questions = plan(dataset, "per_expression")
    requests = [Request(dataset[q.index].image, q.expressions) for q in questions[: config.requests]]
    weights = int8.VARIANT if config.int8 else ""
    path = profile.results_dir / "records" / f"{named(profile, 'latency')}{'-int8' * config.int8}.jsonl"
    stamps = {
        name: _stamps(profile, method=name, weights=digest(folder), backbone=profile.name, data=dataset.digest())
        for name, folder in folders.items()
    }
    done = {name: _kept(path) & set(either) for name, either in stamps.items()}
    records = [r for r in read_records(path) if done.get(r.method)] if any(done.values()) else []
    for name, folder in folders.items():
        if done[name]:
            continue
        method = method_class(name).from_pretrained(folder).to(device_of())
        facts = facts_of(profile, name, digest(folder), config.precision, method)
        facts |= {"note": f"{config.threads} threads, {config.warmup} warm-ups"}
        precision = resolve_precision(config.precision, method.device)
        facts |= {"dataset": profile.data.dataset, "split": "val", "variant": weights}
        with torch.autocast(method.device.type, precision, enabled=precision != torch.float32):
            if config.int8:
                before = int8.answers(method, requests)
                int8.quantise(method)
                asked, after = [dataset[q.index] for q in questions[: config.requests]], int8.answers(method, requests)
                records += int8.cost_records(before, after, asked, profile.evaluate.seed, **facts)
            records += time_paths(method, requests, config, precision, facts)
            if config.scaling:
                records += scale(method, requests, config.requests, 0, **facts)
        done[name] = {stamps[name][0]}
        _keep(path, records, set().union(*done.values()))
    return records


def _time_untrained(profile: Profile) -> list[Record]:
    """The same for the profile's architectures with random weights, a file of records for each case; a finished case
    is not measured again, and one that does not fit in memory, or has tiles where the size has none, is left out."""
    config, device = profile.latency, device_of()
    torch.set_num_threads(config.threads)
    precision = resolve_precision(config.precision, device)
    records: list[Record] = []
    model: tuple[tuple[str, str], Model] | None = None
    for case in untrained.cases(config):
        path = profile.results_dir / "records" / f"latency-{case.slug}{'-int8' * config.int8}.jsonl"
        key, entry = (case.size, case.name), config.untrained[case.name]
        stamps = _stamps(profile, case=asdict(case), method=entry.method, model=entry.model)
        if _kept(path) & set(stamps):
            records += read_records(path)
            continue
        try:
            if model is None or model[0] != key:
                model = None  # the one before goes first, so that there is room for the next
                model = key, untrained.build(entry, case.size, device, precision)
                if config.int8:
                    int8.quantise(model[1])
            if not untrained.reads(model[1], case.tiles):
                print(f"{printable(case.variant)}: this size cuts no image into tiles; left out.", file=sys.stderr)
                continue
            facts = facts_of(profile, entry.method, "", config.precision, model[1]) | {
                "backbone": case.size, "dataset": "noise", "split": "",
                "variant": case.variant + f", {int8.VARIANT}" * config.int8,
                "note": f"random weights, {config.threads} threads, {config.warmup} warm-ups",
            }  # fmt: skip
            requests = untrained.requests_of(case, config.requests)
            found = time_paths(model[1], requests, config, precision, facts, untrained.ANSWER_TEXT)
            if config.scaling and case.tiles == 1 and case.tokens in (None, model[1].mask_tokenizer.length):
                forced = Decoding(answer_text=untrained.ANSWER_TEXT)
                found += scale(model[1], requests, config.requests, untrained.TILE, forced, **facts)
        except torch.OutOfMemoryError:
            told = f"{case.variant}: does not fit in the memory of {device_name(device)}; left out."
            print(printable(told), file=sys.stderr)
            continue
        _keep(path, found, {stamps[0]})
        records += found
    return records


def _stamps(profile: Profile, **case: Any) -> tuple[str, str]:
    """Digests of all that a case's times depend on: as asked, and with scaling, whose records hold the others too."""
    settings = {k: v for k, v in asdict(profile.latency).items() if k not in ("sizes", "tiles", "untrained")}
    case |= {"device": device_name(device_of()), "versions": [version(name) for name in (*PACKAGES, "genseg-bench")]}
    asked, scaled = (stamp_of(**case, **settings | {"scaling": way}) for way in (profile.latency.scaling, True))
    return asked, scaled


def _kept(path: Path) -> set[str]:
    """The stamps of the cases whose records are in a file; none in one without a .stamp beside it."""
    stamp_file = path.with_suffix(".stamp")
    return set(stamp_file.read_text().split()) if path.exists() and stamp_file.exists() else set()


def _keep(path: Path, records: Sequence[Record], stamps: set[str]) -> None:
    """Write records and their stamps; a kill in between leaves no stamp, and hence records to be measured anew."""
    path.with_suffix(".stamp").unlink(missing_ok=True)
    write_records(path, records)
    write_atomic(path.with_suffix(".stamp"), "".join(f"{stamp}\n" for stamp in sorted(stamps)))


def write_report(profile: Profile) -> list[Path]:
    """Tables and figures from the records that exist; beside them what finished stages scored while they ran here,
    but for those whose whole logs are shipped."""

    def opened(dataset: str, split: str) -> Any:
        name, split_by = of_label(dataset)
        return open_split(replace(profile, data=replace(profile.data, dataset=name, split_by=split_by)), split)

    written = build_report(profile.results_dir, profile.runs_dir, opened)
    for stage in profile.stages:
        shipped = profile.results_dir / "logs" / stage / "train.jsonl"
        if model_of_stage(profile, stage).is_dir() and not shipped.is_file():
            _keep_log(profile, stage, "validation.jsonl")
    return written


def reproduce(profile: Profile) -> list[Path]:
    """Evaluate and time the profile's models (training them first if none are shipped), then report."""
    missing = [stage for method, stage in profile.models.items() if existing_model(profile, method) is None]
    if missing:
        train(profile, missing)
    evaluate(profile)
    time_methods(profile)
    return write_report(profile)


def study(profile: Profile) -> list[Path]:
    """Train the profile's models with all that they build on, ship them, then reproduce."""
    train(profile, profile.models.values())
    ship(profile)
    return reproduce(profile)


def checked_split(profile: Profile, split: str) -> Any:
    """The same, when all that its questions and their scores need has been found usable: before the first prediction,
    so that none is made in vain."""
    dataset = open_split(profile, split)
    questions = [q for protocol in profile.evaluate.protocols for q in plan(dataset, protocol, profile.evaluate.limit)]
    dataset.check(objects_of(dataset, questions))
    return dataset


def named(profile: Profile, name: str) -> str:
    """A part of a file's name, with the dataset before it unless that is the embedded one."""
    if is_embedded(profile):
        return name
    return file_name(label_of(profile.data.dataset, profile.data.split_by), name, join=".")


def predictions_dir(profile: Profile) -> Path:
    return profile.runs_dir / "predictions"


def facts_of(profile: Profile, name: str, weights: str, precision: str, method: Model) -> dict[str, Any]:
    """The fields of a record that are the same for all figures of one model."""
    return {
        "method": name,
        "checkpoint": weights,
        "backbone": profile.name,
        "device": device_name(method.device),
        "precision": precision,
        "versions": {package: version(package) for package in PACKAGES},
        "revision": version("genseg-bench"),
        "date": date.today().isoformat(),
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's with its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"
