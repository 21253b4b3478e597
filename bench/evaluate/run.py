"""Predictions, scores and records of a profile's models: `genseg eval`.

Every step first looks whether its result is there already and belongs to the same weights, data and settings, so
that a second call is quick and a killed one resumes.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from bench.config import PROTOCOLS, Profile
from bench.data.readers.places import NotThere
from bench.data.splits import Benchmark, benchmarks_of, open_split, own_benchmark
from bench.distributed import SINGLE_PROCESS, DistributedContext
from bench.evaluate.answers import id_key
from bench.evaluate.baselines import BASELINES, applies
from bench.evaluate.breakdown import breakdown
from bench.evaluate.cost import batch_that_fits, check_room
from bench.evaluate.metrics import VERSION
from bench.evaluate.metrics.registry import NOWHERE, REGISTRY
from bench.evaluate.plain_tasks import PLAIN, plain_records, score_plain
from bench.evaluate.plan import ALIASES, objects_of, plan
from bench.evaluate.predictions import stamp_of
from bench.evaluate.printed import printed_records
from bench.evaluate.processes import helped, total_memory
from bench.evaluate.protocols import asks, protocol_of, wanted_of
from bench.evaluate.runner import Seconds, predict_baseline, predict_method, predict_reconstructions
from bench.evaluate.scoring import difference_records, key_of, score_predictions, to_records
from bench.evaluate.variants import Ways, check_refiner, ways_of
from bench.outputs import check_lines
from bench.records import RECONSTRUCTION, RESIZE_ALONE, Record, read_records, write_records
from bench.refmoji.prepare import prepare_data
from bench.runtime import device_of, digest, load_model, provenance
from methods.base import MaskTokenizer, Model, UserError
from methods.files import printable, read_lines, write_atomic
from methods.protocols import TaskProtocol

SHARE = 0.9  # of a GPU's memory that an open batch may be estimated to take


@dataclass(frozen=True)
class Written:
    """A predictions file, its dataset, and what its records say beside the figures. kind: "answers" of a method, its
    "reconstructions" of the ground truth, or a "baseline"; place: of its records among the files."""

    path: Path
    place: str
    dataset: Any
    facts: dict[str, Any]
    kind: str
    protocol: str = ""


def evaluate(
    profile: Profile, models: Mapping[str, Path], context: DistributedContext = SINGLE_PROCESS
) -> list[Record]:
    """Predictions, scores and records of every method, mask tokenizer and baseline on every split of every benchmark, a
    file each.

    models: method -> the folder of its weights. Records of other splits and protocols stay, unless they belong to
    weights that are no longer the profile's. Of many processes each makes its share of the predictions; the first
    scores them when all are there, and the others return without records. On a CPU there are as many processes of one
    thread as the profile has threads (see processes.py)."""
    spent: Seconds = defaultdict(float)
    with helped(profile, models, context, _share) as context:
        written = _share(profile, models, context, spent)
    if not context.first:
        return []
    begun, found = time.perf_counter(), dict[str, list[Record]]()
    for each in written:
        found.setdefault(each.place, []).extend(_records(profile, each))
    for place, records in _between_methods(profile, written).items():
        found[place] += records
    _keep(profile, found)
    spent["metrics"] += time.perf_counter() - begun
    told = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in spent.items() if seconds >= 0.05)
    print(f"time{' of the first process' if context.size > 1 else ''}: {told}", file=sys.stderr)
    return [record for records in found.values() for record in records]


def _share(
    profile: Profile, models: Mapping[str, Path], context: DistributedContext, spent: Seconds | None = None
) -> list[Written]:
    """The predictions, of which each process makes its share. spent: seconds per stage, which are added up."""
    with context.partners():
        if context.first:
            prepare_data(profile, train=False)
        context.wait()
        written = predict(profile, models, context, defaultdict(float) if spent is None else spent)
        context.leave()
    return written


def predict(profile: Profile, models: Mapping[str, Path], context: DistributedContext, spent: Seconds) -> list[Written]:
    """The predictions of every method, mask tokenizer and baseline on every split. spent: seconds of answering."""
    opened = _opened(profile, context)
    alone = not profile.evaluate.datasets
    asked = [protocols_of(benchmark, dataset.task, dataset.wants, models, alone) for benchmark, dataset in opened]
    if context.first:
        _tell_unasked(models, opened, asked)
    check_refiner(profile.evaluate, models)
    rules = [protocol_of(protocol, dataset.task, name) for (_, dataset), protocols in zip(opened, asked, strict=True)
             for name, named in protocols.items() for protocol in named]  # fmt: skip
    if profile.evaluate.tokens and not any(rule.constrained for rule in rules):
        raise UserError("Official answers have all mask tokens; leave evaluate.tokens out, or add another protocol.")
    written: list[Written] = []
    for name, folder in models.items():
        other = profile.mask_tokenizer_of(name)
        fitting = _fitting(profile, name, folder, context)
        model = load_model(name, folder, profile.evaluate.precision, other)
        weights = digest(folder, other)
        ways = ways_of(profile.evaluate, name, model, partial(_cannot, models, context))
        for (benchmark, dataset), protocols in zip(opened, asked, strict=True):
            if name in protocols:
                batch = benchmark.settings.batch or fitting
                settings = replace(benchmark.settings, protocols=protocols[name], batch=batch)
                own = replace(benchmark, settings=settings)
                written += _predict_model(profile, name, model, weights, own, dataset, context, ways, spent)
    for name in BASELINES:
        for benchmark, dataset in opened:
            if applies(name, dataset):
                identity, place = {"method": name, "data": dataset.digest()}, benchmark.place(dataset.split)
                folder = predictions_dir(profile)
                paths = predict_baseline(name, identity, dataset, place, benchmark.settings, folder, context)
                written += [Written(path, place, dataset, identity, "baseline") for path in paths.values()]
    return written


def _opened(profile: Profile, context: DistributedContext) -> list[tuple[Benchmark, Any]]:
    """Every split of every benchmark, usable. Those that are not on this disk are left out and told if the profile says
    so; raises NotThere if none is left."""
    opened: list[tuple[Benchmark, Any]] = []
    absent: list[NotThere] = []
    for benchmark in benchmarks_of(profile):
        for split in benchmark.settings.splits:
            try:
                opened.append((benchmark, checked_split(benchmark, split)))
            except NotThere as missing:
                if not profile.data.skip_missing:
                    raise
                absent.append(missing)
    for error in absent if context.first else ():
        print(f"Left out: {printable(error)}", file=sys.stderr)
    if absent and not opened:
        raise absent[0]
    return opened


def protocols_of(
    benchmark: Benchmark, task: str, scored: tuple[str, ...], models: Iterable[str], alone: bool = True
) -> dict[str, list[str]]:
    """Method -> the benchmark's protocols by which it can be asked for something of what is `scored`, of the methods
    that have one. Raises UserError for a protocol by which none can, if the benchmark stands alone."""
    models = list(models)
    for protocol in benchmark.settings.protocols if alone and models else ():
        if not any(asks(protocol, task, name, scored) for name in models):
            wanted_of(protocol_of(protocol, task, models[0]), scored, models[0])
    found = {name: [p for p in benchmark.settings.protocols if asks(p, task, name, scored)] for name in models}
    return {name: protocols for name, protocols in found.items() if protocols}


def _tell_unasked(
    models: Iterable[str], opened: Sequence[tuple[Benchmark, Any]], asked: Sequence[Mapping[str, Sequence[str]]]
) -> None:
    """Say what a method is not asked, because none of the protocols is for it."""
    for name in models:
        places = [f"{benchmark.label} {dataset.split}" for (benchmark, dataset), protocols in
                  zip(opened, asked, strict=True) if name not in protocols]  # fmt: skip
        if places:
            print(f"{name} is not asked about {', '.join(places)}, for which it has no protocol.", file=sys.stderr)


def _fitting(profile: Profile, name: str, folder: Path, context: DistributedContext) -> int:
    """How many questions a large model is asked at once where the profile leaves it open, 0 for any number. Says what
    it will take of a GPU, and raises UserError with the numbers where that has too little."""
    if device_of().type != "cuda":
        return batch_that_fits(name, folder, profile.evaluate, total_memory())
    fitting = batch_that_fits(name, folder, profile.evaluate, SHARE * torch.cuda.mem_get_info()[1])
    batch = max(benchmark.settings.batch or fitting for benchmark in benchmarks_of(profile))
    settings = replace(profile.evaluate, batch=batch)
    found = check_room(name, folder, settings, torch.cuda.mem_get_info()[0])
    if found is not None and context.first:
        told = f"{found.memory / 1e9:.1f} GB of each GPU, by estimate, with {found.batch} questions at a time"
        print(f"{name} takes about {told}.", file=sys.stderr)
    return fitting


def _predict_model(
    profile: Profile, name: str, model: Model, weights: str, benchmark: Benchmark, dataset: Any,
    context: DistributedContext, ways: Ways, spent: Seconds,
) -> list[Written]:  # fmt: skip
    place, folder, config = benchmark.place(dataset.split), predictions_dir(profile), benchmark.settings
    identity = {"method": name, "weights": weights, "data": dataset.digest()}
    facts = provenance(profile, name, weights, config.precision, model) | {"data": identity["data"]}
    written: list[Written] = []
    refined: dict[str, Path] = {}
    for each in ways.variants:
        paths = predict_method(
            model, identity | each.identity, dataset, place, config, folder, decoding=each.decoding, context=context,
            refiner=ways.refiner if each.refiner else None, refined=refined, spent=spent,
        )  # fmt: skip
        refined = paths if each.refiner else {}
        told = facts | each.facts
        written += [Written(path, place, dataset, told, "answers", protocol) for protocol, path in paths.items()]
    if model.mask_tokenizer is not None and dataset.task not in PLAIN:
        written += _reconstructed(benchmark, model.mask_tokenizer, identity, dataset, folder, facts, context)
    return written


def _cannot(models: Collection[str], context: DistributedContext, sentence: str) -> None:
    """Say what one of many methods cannot do; raise UserError if it is the only one."""
    if len(models) == 1:
        raise UserError(f"{sentence}; correct it.")
    if context.first:
        print(f"Left out: {sentence}.", file=sys.stderr)


def _reconstructed(
    benchmark: Benchmark, mask_tokenizer: MaskTokenizer, identity: dict[str, Any], dataset: Any, folder: Path,
    facts: dict[str, Any], context: DistributedContext = SINGLE_PROCESS,
) -> list[Written]:  # fmt: skip
    place = benchmark.place(dataset.split)
    paths = predict_reconstructions(mask_tokenizer, identity, dataset, place, benchmark.settings, folder, context)
    facts = facts | {"kind": RECONSTRUCTION, "protocol": ""}
    alone = {"variant": facts.get("variant", {}) | RESIZE_ALONE}
    told = ({"tokens": count} if count else alone for count in paths)
    return [
        Written(path, place, dataset, facts | each, "reconstructions")
        for each, path in zip(told, paths.values(), strict=True)
    ]


def score_reconstructions(
    profile: Profile, mask_tokenizer: MaskTokenizer, identity: dict[str, Any], dataset: Any, folder: Path,
    facts: dict[str, Any],
) -> list[Record]:  # fmt: skip
    """Records of the reconstruction bound on `data`'s own dataset at each number of tokens. folder: of the predictions;
    facts: the records' other fields."""
    written = _reconstructed(own_benchmark(profile), mask_tokenizer, identity, dataset, folder, facts)
    return [record for each in written for record in _records(profile, each)]


def _records(profile: Profile, written: Written) -> list[Record]:
    """The records of a predictions file."""
    path, dataset, facts = written.path, written.dataset, written.facts
    records = score(profile, path, dataset, facts)
    if written.kind != "answers":
        return shown(records)
    if written.protocol == "per_expression" and dataset.serves == "masks" and dataset.knows_objects:
        rows = [row for _, row in read_lines(scores_of(profile, path))]
        records += breakdown(rows, dataset.objects, profile.evaluate.seed, **facts)
    return records


def _between_methods(profile: Profile, written: Sequence[Written]) -> dict[str, list[Record]]:
    """Place -> the differences of each two methods, as they are meant, under the same protocol, paired by sample."""
    found: dict[str, list[Record]] = defaultdict(list)
    answers = [w for w in written if w.kind == "answers" and w.dataset.task not in PLAIN
               and not (w.facts.get("variant") or w.facts.get("tokens"))]  # fmt: skip
    for first, second in combinations(answers, 2):
        if (first.place, first.protocol) != (second.place, second.protocol):
            continue
        rows = [[row for _, row in read_lines(scores_of(profile, each.path))] for each in (first, second)]
        if {key_of(row) for row in rows[0]} != {key_of(row) for row in rows[1]}:
            continue  # a protocol may ask methods different questions
        facts = {"seed": profile.evaluate.seed, **first.facts, "against": {"method": second.facts["method"]}}
        found[first.place] += difference_records([(rows[0], rows[1])], **facts)
    return found


def _keep(profile: Profile, found: Mapping[str, Sequence[Record]]) -> None:
    """Write the records of each place, with earlier ones of the same weights under protocols that were not asked now;
    files of other weights go."""
    folder, weights = profile.results_dir / "records", _weights(record for now in found.values() for record in now)
    for path in folder.glob("scores-*.jsonl"):
        if not _weights(read_records(path)) <= weights:
            path.unlink()
    for place, now in found.items():
        path = folder / f"scores-{place}.jsonl"
        asked = {record.protocol for record in now}
        earlier = read_records(path) if path.exists() else []
        write_records(path, [*now, *(r for r in earlier if r.protocol in set(PROTOCOLS) - asked)])


def _weights(records: Iterable[Record]) -> set[tuple[str, str]]:
    """The methods and the digests of their weights; baselines have none."""
    return {(record.method, record.checkpoint) for record in records if record.checkpoint}


def shown(records: Sequence[Record]) -> list[Record]:
    """The records that the tables show, of models and reconstructions of which there are many."""
    hidden = {name for name, metric in REGISTRY.items() if metric.where == NOWHERE}
    return [record for record in records if record.metric not in hidden]


def score(profile: Profile, path: Path, dataset: Any, facts: dict[str, Any]) -> list[Record]:
    """Score a predictions file, keep the scores beside it, and aggregate them; done once per content, ground truth and
    metrics. facts: the records' other fields, of which the lines of scores say what answered."""
    rule, plain = _rule_of(path, dataset, facts["method"]), dataset.task in PLAIN
    rows = _scored(profile, path, dataset, facts, rule is not None and "box" in rule.want)
    said = "; ".join(filter(None, [profile.note, *dataset.remarks()]))
    facts = {"seed": profile.evaluate.seed, "note": said, **facts}
    found = (plain_records if plain else to_records)(rows, **facts)
    if rule is not None and rule.want and "mask" not in rule.want and not plain:
        found = [record for record in found if record.metric.startswith("acc@")]  # no mask was asked for
    if rule is None or not rule.printed:
        return found
    places = {id_key(dataset.info(index).ref_id): index for index in range(len(dataset))}
    examples = [dataset[places[id_key(row["ref_id"])]] for row in rows]
    return [*found, *printed_records(rule, rows, examples, **facts)]


def _scored(
    profile: Profile, path: Path, dataset: Any, facts: Mapping[str, Any], box_asked: bool
) -> list[dict[str, Any]]:
    """The lines of scores of a predictions file, made where they are not there yet."""
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    told = {name: facts[name] for name in ("method", "variant", "tokens") if name in facts}
    stamp = stamp_of(content=content, data=dataset.digest(), metrics=VERSION, code=version("genseg-bench"), of=told)
    scores, plain = scores_of(profile, path), dataset.task in PLAIN
    stamp_file = scores.with_suffix(".stamp")
    if not (scores.exists() and stamp_file.exists() and stamp_file.read_text() == stamp):
        check_lines(scores, ["figures" if plain else "intersection"])
        found = score_plain(path, dataset) if plain else score_predictions(path, dataset, box_asked=box_asked)
        write_atomic(scores, "".join(json.dumps(row | told, ensure_ascii=False) + "\n" for row in found))
        write_atomic(stamp_file, stamp)
    return [row for _, row in read_lines(scores)]


def _rule_of(path: Path, dataset: Any, method: str) -> TaskProtocol | None:
    """How the answers of a file were asked for; None if no protocol has it, as for reconstructions."""
    with path.open(encoding="utf-8") as file:
        protocol = str(json.loads(file.readline()).get("protocol"))
    return protocol_of(protocol, dataset.task, method) if asks(protocol, dataset.task, method) else None


def scores_of(profile: Profile, path: Path) -> Path:
    """Where the scores of a predictions file are."""
    return profile.runs_dir / "scores" / path.relative_to(predictions_dir(profile))


def checked_split(benchmark: Benchmark, split: str) -> Any:
    """A split, when all that its questions and their scores need has been found usable: before the first prediction, so
    that none is made in vain."""
    dataset = open_split(benchmark, split)
    rules = [ALIASES.get(protocol, "joined") for protocol in benchmark.settings.protocols]
    questions = [question for rule in rules for question in plan(dataset, rule, benchmark.settings.limit)]
    dataset.check(objects_of(dataset, questions))
    return dataset


def predictions_dir(profile: Profile) -> Path:
    return profile.runs_dir / "predictions"
