"""Predictions, scores and records of a profile's models: `genseg eval`.

Every step first looks whether its result is there already and belongs to the same weights, data and settings, so
that a second call is quick and a killed one resumes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.config import Profile
from bench.data.splits import named, open_split
from bench.evaluate.baselines import BASELINES
from bench.evaluate.breakdown import breakdown
from bench.evaluate.metrics import VERSION
from bench.evaluate.metrics.no_target import THRESHOLDS
from bench.evaluate.plan import objects_of, plan
from bench.evaluate.predictions import stamp_of
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
}  # fmt: skip


def evaluate(profile: Profile, models: Mapping[str, Path]) -> list[Record]:
    """Predictions, scores and records of every method, codec and baseline on every split, a file of records each.

    models: method -> the folder of its weights. Records of other splits stay, unless they belong to weights that are no
    longer the profile's."""
    prepare_data(profile, train=False)
    torch.set_num_threads(profile.evaluate.threads)
    records: list[Record] = []
    datasets = {split: checked_split(profile, split) for split in profile.evaluate.splits}
    for name, folder in models.items():
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
    facts = provenance(profile, name, weights, profile.evaluate.precision, method)
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


def shown(records: Iterable[Record]) -> list[Record]:
    """The records that the tables show, of models and reconstructions of which there are many."""
    return [record for record in records if record.metric in SHOWN]


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


def checked_split(profile: Profile, split: str) -> Any:
    """The same, when all that its questions and their scores need has been found usable: before the first prediction,
    so that none is made in vain."""
    dataset = open_split(profile, split)
    questions = [q for protocol in profile.evaluate.protocols for q in plan(dataset, protocol, profile.evaluate.limit)]
    dataset.check(objects_of(dataset, questions))
    return dataset


def predictions_dir(profile: Profile) -> Path:
    return profile.runs_dir / "predictions"
