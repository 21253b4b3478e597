"""Predictions, scores and records of a profile's models: `genseg eval`.

Every step first looks whether its result is there already and belongs to the same weights, data and settings, so
that a second call is quick and a killed one resumes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.config import PROTOCOLS, Profile
from bench.data.splits import named, open_split
from bench.evaluate.answers import id_key
from bench.evaluate.baselines import BASELINES
from bench.evaluate.breakdown import breakdown
from bench.evaluate.metrics import VERSION
from bench.evaluate.metrics.no_target import THRESHOLDS
from bench.evaluate.plain_tasks import PLAIN, plain_records, score_plain
from bench.evaluate.plan import ALIASES, objects_of, plan
from bench.evaluate.predictions import stamp_of
from bench.evaluate.printed import PRINTED, printed_records
from bench.evaluate.protocols import asks, protocol_of
from bench.evaluate.runner import predict_baseline, predict_codec, predict_method
from bench.evaluate.scoring import score_predictions, to_records
from bench.outputs import check_lines
from bench.records import Record, read_records, write_records
from bench.refmoji.prepare import prepare_data
from bench.runtime import device_of, digest, provenance
from methods.base import Decoding, Model
from methods.files import read_lines, write_atomic
from methods.registry import method_class

# the metrics that records keep
SHOWN = {
    "ciou", "giou", "small_ciou", "bf_score", "acc@0.5", "acc@0.7", "acc@0.9", "mask_acc@0.9", "n_acc", "t_acc",
    *(f"pr@{threshold}" for threshold in THRESHOLDS), "giou@small", "giou@medium", "giou@large",
    "accuracy",
}  # fmt: skip


def evaluate(profile: Profile, models: Mapping[str, Path]) -> list[Record]:
    """Predictions, scores and records of every method, codec and baseline on every split, a file of records each.

    models: method -> the folder of its weights. Records of other splits and protocols stay, unless they belong to
    weights that are no longer the profile's."""
    prepare_data(profile, train=False)
    torch.set_num_threads(profile.evaluate.threads)
    records: list[Record] = []
    datasets = {split: checked_split(profile, split) for split in profile.evaluate.splits}
    task = next(iter(datasets.values())).task
    for protocol, name in product(profile.evaluate.protocols, models):
        protocol_of(protocol, task, name)  # refuses what cannot be asked before a model is loaded
    for name, folder in models.items():
        other = profile.mask_tokenizer_of(name)
        model = method_class(name).from_pretrained(folder, **{"mask_tokenizer": other} if other else {})
        weights = digest(folder, other)
        for split, dataset in datasets.items():
            records += _evaluate_method(profile, name, model.to(device_of()), weights, split, dataset)
    for name in BASELINES:
        for split, dataset in datasets.items():
            if dataset.task in PLAIN:
                continue
            place = named(profile, split)
            identity = {"method": name, "data": dataset.digest()}
            paths = predict_baseline(name, identity, dataset, place, profile.evaluate, predictions_dir(profile))
            records += [r for path in paths for r in shown(score(profile, path, dataset, {"method": name}))]
    _keep(profile, records)
    return records


def _keep(profile: Profile, records: Sequence[Record]) -> None:
    """Write the records of each split, with earlier ones of the same weights under protocols that were not asked now;
    files of other weights go."""
    folder, weights = profile.results_dir / "records", {(record.method, record.checkpoint) for record in records}
    for path in folder.glob("scores-*.jsonl"):
        if not {(record.method, record.checkpoint) for record in read_records(path)} <= weights:
            path.unlink()
    for split in profile.evaluate.splits:
        path = folder / f"scores-{named(profile, split)}.jsonl"
        now = [record for record in records if record.split == split]
        asked = {record.protocol for record in now}
        earlier = read_records(path) if path.exists() else []
        write_records(path, [*now, *(r for r in earlier if r.protocol in set(PROTOCOLS) - asked)])


def _evaluate_method(
    profile: Profile, name: str, method: Model, weights: str, split: str, dataset: Any
) -> list[Record]:
    place = named(profile, split)
    identity = {"method": name, "weights": weights, "data": dataset.digest()}
    facts = provenance(profile, name, weights, profile.evaluate.precision, method)
    records = []
    folder = predictions_dir(profile)
    for rule in profile.evaluate.decode_rules:
        asked, told = _under(rule, profile.evaluate.temperature)
        decoding = Decoding(rule=rule, temperature=profile.evaluate.temperature)
        paths = predict_method(method, identity | asked, dataset, place, profile.evaluate, folder, decoding=decoding)
        for path in paths:
            records += score(profile, path, dataset, facts | told)
            if path.stem.endswith("per_expression") and dataset.task not in PLAIN:
                rows = [row for _, row in read_lines(scores_of(profile, path))]
                records += breakdown(rows, dataset.objects, profile.evaluate.seed, **facts)
    if method.mask_tokenizer is not None and dataset.task not in PLAIN:
        for path in predict_codec(method.mask_tokenizer, identity, dataset, place, profile.evaluate, folder):
            tokens = int(path.stem.rsplit("-", 1)[1])
            records += shown(score(profile, path, dataset, facts | {"variant": f"tokens={tokens}"}))
    return records


def shown(records: Iterable[Record]) -> list[Record]:
    """The records that the tables show, of models and reconstructions of which there are many."""
    return [record for record in records if record.metric in SHOWN or record.metric.startswith(PRINTED)]


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
        check_lines(scores, "figures" if dataset.task in PLAIN else "intersection")
        rows = (score_plain if dataset.task in PLAIN else score_predictions)(path, dataset)
        write_atomic(scores, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        write_atomic(stamp_file, stamp)
    rows = [row for _, row in read_lines(scores)]
    facts = {"seed": profile.evaluate.seed, "note": "; ".join(dataset.remarks())} | facts
    found = (plain_records if dataset.task in PLAIN else to_records)(rows, **facts)
    name, protocol = facts["method"], str(rows[0]["protocol"])
    rule = protocol_of(protocol, dataset.task, name) if asks(protocol, dataset.task, name) else None
    if rule is None or not rule.printed:
        return found
    places = {id_key(dataset.info(index).ref_id): index for index in range(len(dataset))}
    examples = [dataset[places[id_key(row["ref_id"])]] for row in rows]
    return [*found, *printed_records(rule, rows, examples, **facts)]


def scores_of(profile: Profile, path: Path) -> Path:
    """Where the scores of a predictions file are."""
    return profile.runs_dir / "scores" / path.relative_to(predictions_dir(profile))


def checked_split(profile: Profile, split: str) -> Any:
    """The same, when all that its questions and their scores need has been found usable: before the first prediction,
    so that none is made in vain."""
    dataset = open_split(profile, split)
    rules = [ALIASES.get(protocol, "joined") for protocol in profile.evaluate.protocols]
    questions = [question for rule in rules for question in plan(dataset, rule, profile.evaluate.limit)]
    dataset.check(objects_of(dataset, questions))
    return dataset


def predictions_dir(profile: Profile) -> Path:
    return profile.runs_dir / "predictions"
