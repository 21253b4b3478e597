"""Latency of a profile's models, or of architectures with random weights: `genseg latency`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.config import Profile
from bench.data.splits import open_split, own_benchmark
from bench.evaluate.plan import plan
from bench.evaluate.predictions import stamp_of
from bench.latency import int8, untrained
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
from methods.base import Decoding, Model, Request
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
    requests = [Request(dataset[q.index].image, q.expressions) for q in questions[: config.requests]]
    weights = int8.VARIANT if config.int8 else {}
    path = profile.results_dir / "records" / f"{benchmark.place('latency')}{'-int8' * config.int8}.jsonl"
    told = {"backbone": profile.name, "data": dataset.digest()}
    digests = {name: digest(folder, profile.mask_tokenizer_of(name)) for name, folder in models.items()}
    stamps = {name: _stamps(profile, device_of(), method=name, weights=each, **told) for name, each in digests.items()}
    done = {name: _kept(path) & set(either) for name, either in stamps.items()}
    records = [r for r in read_records(path) if done.get(r.method)] if any(done.values()) else []
    for name, folder in models.items():
        if done[name]:
            continue
        method = load_model(name, folder, config.precision, profile.mask_tokenizer_of(name))
        facts = provenance(profile, name, digests[name], config.precision, method)
        told = f"{config.threads} threads, {config.warmup} warm-ups"
        facts |= {"note": ", ".join(filter(None, [profile.note, told]))}
        precision = resolve_precision(config.precision, method.device)
        facts |= {"dataset": profile.data.dataset, "split": "val", "variant": weights}
        with answering_in(method, precision):
            if config.int8:
                before = int8.answers(method, requests)
                int8.quantise(method)
                asked, after = [dataset[q.index] for q in questions[: config.requests]], int8.answers(method, requests)
                records += int8.cost_records(before, after, asked, profile.evaluate.seed, **facts)
            records += time_backends(method, requests, config, precision, facts)
            if config.scaling:
                records += scale(method, requests, config.requests, 0, **facts)
        done[name] = {stamps[name][0]}
        _keep(path, records, set().union(*done.values()))
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
                    int8.quantise(model[1])
            if not untrained.reads(model[1], case.tiles):
                print(f"{printable(case.label)}: this size cuts no image into tiles; left out.", file=sys.stderr)
                continue
            facts = provenance(profile, entry.method, "", config.precision, model[1]) | {
                "backbone": case.size, "dataset": "noise", "split": "",
                "variant": case.variant | (int8.VARIANT if config.int8 else {}), "tokens": case.tokens,
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
