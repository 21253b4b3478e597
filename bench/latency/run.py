"""Latency of a profile's models, or of architectures with random weights: `genseg latency`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.config import Profile
from bench.data.splits import open_split, own_benchmark
from bench.evaluate.plan import plan
from bench.evaluate.predictions import stamp_of
from bench.latency import rounding, untrained
from bench.latency.scaling import scale
from bench.latency.session import time_backends
from bench.records import Record, read_records, write_records
from bench.refmoji.prepare import prepare_data
from bench.runtime import (
    PACKAGES,
    answering_in,
    device_name,
    device_of,
    digest,
    load_model,
    provenance,
    resolve_precision,
)
from methods.base import Decoding, Example, Model, Request
from methods.files import printable, write_atomic


def time_models(profile: Profile, models: Mapping[str, Path]) -> list[Record]:
    """Latency of every method on the validation split -> records; measured once per weights, data and settings, and
    written after every method. models: method -> the folder of its weights."""
    prepare_data(profile, train=False)
    config = profile.latency
    torch.set_num_threads(config.threads)
    benchmark = own_benchmark(profile)
    dataset = open_split(benchmark, "val")
    questions = plan(dataset, "per_expression")
    asked = [(dataset[question.index], question.expressions) for question in questions[: config.requests]]
    path = profile.results_dir / "records" / f"{benchmark.place('latency')}{'-int8' * config.int8}.jsonl"
    told = {"backbone": profile.name, "data": dataset.digest()}
    digests = {name: digest(folder, profile.mask_tokenizer_of(name)) for name, folder in models.items()}
    stamps = {name: _stamps(profile, device_of(), method=name, weights=each, **told) for name, each in digests.items()}
    done = {name: _kept(path) & set(either) for name, either in stamps.items()}
    records = [r for r in read_records(path) if done.get(r.method)] if any(done.values()) else []
    for name, folder in models.items():
        if done[name]:
            continue
        records += _of_model(profile, name, folder, digests[name], asked)
        done[name] = {stamps[name][0]}
        _keep(path, records, set().union(*done.values()))
    return records


def _of_model(
    profile: Profile, name: str, folder: Path, weights: str, asked: Sequence[tuple[Example, Sequence[str]]]
) -> list[Record]:
    """Times of one trained model, and what its weights of fewer bits change. weights: the digest of the folder's;
    asked: samples, with the expressions that are asked for."""
    config, precision = profile.latency, resolve_precision(profile.latency.precision, device_of())
    requests = [Request(example.image, tuple(expressions)) for example, expressions in asked]
    load = partial(load_model, name, folder, mask_tokenizer=profile.mask_tokenizer_of(name))
    exact = None
    if precision != torch.float32 and not config.int8:
        exact = rounding.float32_answers(lambda: load("float32"), requests)
    method = load(config.precision)
    told = f"{config.threads} threads, {config.warmup} warm-ups"
    facts = provenance(profile, name, weights, config.precision, method) | {
        "note": ", ".join(filter(None, [profile.note, told])), "dataset": profile.data.dataset, "split": "val",
        "variant": rounding.INT8 if config.int8 else {},
    }  # fmt: skip
    records = []
    with answering_in(method, precision):
        if config.int8:
            exact = rounding.answers(method, requests)
            rounding.quantise(method)
        if exact is not None:
            rounded = rounding.answers(method, requests)
            records += rounding.cost_records(
                exact, rounded, [each for each, _ in asked], profile.evaluate.seed, **facts
            )
            print(printable(rounding.told(name, records)))
        records += time_backends(method, requests, config, precision, facts)
        if config.scaling:
            records += scale(method, requests, config.requests, 0, **facts)
    return records


def time_untrained(profile: Profile, device: torch.device | None = None) -> list[Record]:
    """The same for the profile's architectures with random weights (latency.untrained): a file of records a case.

    A finished case is not measured again; one that does not fit in memory, or has tiles where the size has none, is
    left out. device: the first GPU if there is one."""
    config, device = profile.latency, device or device_of()
    torch.set_num_threads(config.threads)
    precision = resolve_precision(config.precision, device)
    records: list[Record] = []
    model: tuple[tuple[str, str], Model] | None = None
    for case in untrained.cases(config):
        path = profile.results_dir / "records" / f"latency-{case.slug}{'-int8' * config.int8}.jsonl"
        key, entry = (case.size, case.name), config.untrained[case.name]
        stamps = _stamps(profile, device, case=asdict(case), method=entry.method, model=entry.model)
        if _kept(path) & set(stamps):
            records += read_records(path)
            continue
        try:
            if model is None or model[0] != key:
                model = None  # the one before goes first, so that there is room for the next
                model = key, untrained.build(entry, case.size, device, precision)
                if config.int8:
                    rounding.quantise(model[1])
            if not untrained.reads(model[1], case.tiles):
                print(f"{printable(case.label)}: this size cuts no image into tiles; left out.", file=sys.stderr)
                continue
            facts = provenance(profile, entry.method, "", config.precision, model[1]) | {
                "backbone": case.size, "dataset": "noise", "split": "",
                "variant": case.variant | (rounding.INT8 if config.int8 else {}), "tokens": case.tokens,
                "note": f"random weights, {config.threads} threads, {config.warmup} warm-ups",
            }  # fmt: skip
            requests = untrained.requests_of(case, config.requests)
            found = time_backends(model[1], requests, config, precision, facts, untrained.ANSWER_TEXT)
            if config.scaling and case.tiles == 1 and case.tokens in (None, model[1].mask_tokenizer.length):
                forced = Decoding(answer_text=untrained.ANSWER_TEXT)
                found += scale(model[1], requests, config.requests, untrained.TILE, forced, **facts)
        except torch.OutOfMemoryError:
            told = f"{case.label}: does not fit in the memory of {device_name(device)}; left out."
            print(printable(told), file=sys.stderr)
            continue
        _keep(path, found, {stamps[0]})
        records += found
    return records


def _stamps(profile: Profile, device: torch.device, **case: Any) -> tuple[str, str]:
    """Digests of all that a case's times depend on: as asked, and with scaling, whose records hold the others too."""
    settings = {k: v for k, v in asdict(profile.latency).items() if k not in ("sizes", "tiles", "untrained")}
    case |= {"device": device_name(device), "versions": [version(name) for name in (*PACKAGES, "genseg-bench")]}
    asked, scaled = (stamp_of(**case, **settings | {"scaling": way}) for way in (profile.latency.scaling, True))
    return asked, scaled


def _kept(path: Path) -> set[str]:
    """The stamps of the cases whose records are in a file; none in one without a .stamp beside it."""
    stamp_file = path.with_suffix(".stamp")
    return set(stamp_file.read_text().split()) if path.exists() and stamp_file.exists() else set()


def _keep(path: Path, records: Sequence[Record], stamps: set[str]) -> None:
    """Write records and their stamps; a kill in between leaves no stamp, and hence records to be measured again."""
    path.with_suffix(".stamp").unlink(missing_ok=True)
    write_records(path, records)
    write_atomic(path.with_suffix(".stamp"), "".join(f"{stamp}\n" for stamp in sorted(stamps)))
