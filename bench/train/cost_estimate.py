"""What the stages of a profile cost before anybody rents a machine: parameters, memory, steps, tokens, FLOPs, hours.

    genseg plan profile=NAME size=8B gpus=8 memory=80
    genseg plan profile=NAME gpus=64 memory=80 sizes=1B,8B,78B       # one line a size; sizes=all

Models are built from the profile as for training, with random weights on torch's fake tensors, which take no memory;
the stage's own rule decides what is trained. Memory is per GPU in gigabytes (10^9 bytes) and follows the engines as
they are: float32 weights, gradients and moments, and trained weights once more in bfloat16 while autocast is on; or
with ZeRO in bfloat16 weights of 2 bytes (a frozen mask tokenizer's of 4), gradients summed in float32 from stage 2 on,
and float32 masters with the moments. Fragmentation and CUDA's own half gigabyte come on top.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.config import Profile, StageConfig, TrainConfig
from bench.data.mixture import task_shares
from bench.runtime import PEAK_TFLOPS
from bench.terminal import cell, short
from bench.train.deepspeed import AT_A_TIME
from bench.train.freezing import enter, frozen_parts, parameters_of
from methods.base import UserError
from methods.common.cost import Load
from methods.files import number
from methods.registry import method_spec, resolve, stage_spec

MASKLESS = ("box", "caption", "question")  # tasks whose samples hold no mask
GPUS = ("A100", "H100", "H200")
FRESH = ("size", "image_first", "system")  # keys of a backbone from scratch, for which one of random weights stands
GROUPS = ("start", "backbone", "mask_tokenizer", "token_cache")  # keys that name folders
BUCKET, LIVE = 5 * 10**8, 10**9  # DeepSpeed's defaults: elements that are reduced at once, and gathered at most
SIZE_ROWS = {  # rows of memory -> their titles in a table of sizes
    "loading": "loading", "training, checkpointed": "training", "validating": "validating", "saving": "saving",
    "CPU: checkpoint": "CPU: checkpoint", "CPU: model": "CPU: model",
}  # fmt: skip
PEAKS = ("training", "training, checkpointed", "loading", "validating", "saving")  # rows of a GPU


@dataclass(frozen=True)
class Machine:
    """gpus of `memory` gigabytes each; mfu: the share of their arithmetic that is used; text: tokens of a sample
    besides image and mask, `answer` of them learned; tiles: of an image on average, 0: half of the most."""

    gpus: int = 8
    memory: float = 80.0
    mfu: float = 0.4
    text: int = 100
    answer: int = 16
    tiles: float = 0.0

    def holds(self, gigabytes: float) -> bool:
        """Whether that fits on a GPU."""
        return gigabytes <= 0.95 * self.memory


@dataclass(frozen=True)
class StagePlan:
    """Counts; gpus that share it; memory: rows of gigabytes by ZeRO stage (see `memory_rows`)."""

    name: str
    gpus: int
    parameters: int
    trained: int
    steps: int
    samples: int
    tokens: float
    flops: float
    memory: dict[int, dict[str, float]]

    def hours(self, gpu: str, mfu: float) -> float:
        """On the clock, with all its GPUs."""
        return self.flops / (PEAK_TFLOPS[gpu] * 1e12 * mfu * self.gpus) / 3600


def machine_of(values: Mapping[str, str]) -> Machine:
    """Settings as `key=value` words gave them. Raises UserError for what is no number, or too small."""
    made: dict[str, Any] = {}
    for key, text in values.items():
        whole = isinstance(getattr(Machine, key), int)
        least = 0 if key in ("tiles", "text", "answer") else 1 if whole else 0.001
        made[key] = number(text, key, least, 10**9, whole)
    return Machine(**made)


def plan_stage(profile: Profile, name: str, machine: Machine) -> StagePlan:
    """The plan of one stage of a profile."""
    stage = profile.stages[name]
    precision = torch.float32 if profile.train.precision == "float32" else torch.bfloat16
    share = sum(share for task, share in task_shares(profile, stage).items() if task not in MASKLESS)
    with FakeTensorMode():
        trainee = resolve(stage_spec(stage.method, stage.stage).trainee)
        method = trainee.build(_config(profile, stage), lambda: ())
        enter(method, stage, TrainConfig())
        counts = _counts(method)
        costs = _costs(method, stage, share, machine, precision)
    micro = stage.micro_batch_images or max(1, stage.images_per_step // machine.gpus)
    per_step = stage.images_per_step / micro
    mean = {key: share * costs["masked"][key] + (1 - share) * costs["plain"][key] for key in ("flops", "tokens")}
    batches = stage.steps * per_step
    return StagePlan(
        name, machine.gpus, counts["all"], counts["trained"], stage.steps,
        stage.images_per_step * stage.expressions_per_image,
        mean["tokens"] * batches, mean["flops"] * batches,
        {
            zero: memory_rows(zero, counts, costs["largest"], machine.gpus, precision == torch.bfloat16)
            for zero in zero_stages(stage)
        },
    )  # fmt: skip


def _counts(method: Any) -> dict[str, int]:
    """Parameters: all, trained; of those that stay whole under ZeRO 3 all, and the mask tokenizer's, which are not
    rounded; of the largest one."""
    whole = {id(p): p for *_, part in frozen_parts(method) for p in parameters_of(part)}
    masks = method.mask_tokenizer.parameters() if method.mask_tokenizer is not None else ()
    everything = list(method.parameters())
    return {
        "all": sum(p.numel() for p in everything),
        "trained": sum(p.numel() for p in everything if p.requires_grad),
        "whole": sum(p.numel() for p in whole.values()),
        "exact": sum(p.numel() for p in masks if id(p) in whole),
        "largest": max(p.numel() for p in everything),
    }


def zero_stages(stage: StageConfig) -> tuple[int, ...]:
    """The engines that can train a stage."""
    return (0,) if stage_spec(stage.method, stage.stage).mask_tokenizer or stage.muon_lr else (0, 1, 2, 3)


def memory_rows(
    zero: int, counts: Mapping[str, int], cost: Mapping[str, float], gpus: int, low: bool
) -> dict[str, float]:
    """What lies on one GPU, in gigabytes: the parts of training, its peak with activations kept and computed again, and
    the peaks of loading, of validating (without the answers' own activations) and of saving. Then, of the CPU's memory
    of one process, what loading and a checkpoint take, and the first one's at the end, when it writes the model.

    low: products in bfloat16, and with ZeRO weights too.
    """
    every, trained, whole, exact, largest = (counts[k] / 1e9 for k in ("all", "trained", "whole", "exact", "largest"))
    each = 2 if low and zero else 4
    complete = each * (every - exact) + 4 * exact
    weights = complete if zero < 3 else each * (whole - exact + (every - whole) / gpus) + 4 * exact
    states = 12 * trained / gpus if zero else 8 * trained
    reduced, gathered = (min(limit / 1e9, trained) * each for limit in (BUCKET, LIVE))
    rows = {
        "weights": weights,
        "gradients": 4 * trained / gpus if zero > 1 else each * trained,
        "optimiser": states,
        "bf16 copies": 0.0 if low and zero else cost["copies"] / 1e9,
        "buffers": {0: 0.0, 3: reduced + gathered}.get(zero, 2 * reduced),
        "logits": cost["logits"] / 1e9,
        "activations": cost["kept"] / 1e9,
        "checkpointed": cost["checkpointed"] / 1e9,
    }
    fixed = sum(rows.values()) - rows["activations"] - rows["checkpointed"]
    moved = each * max(AT_A_TIME / 1e9, largest) if zero == 3 else 0
    frozen = 4 * (every - trained)
    return rows | {
        "training": fixed + rows["activations"],
        "training, checkpointed": fixed + rows["checkpointed"],
        "loading": max(weights + moved, weights + (states / 3 if zero else 0)),
        "validating": (weights if zero == 3 else 0) + complete + states,
        "saving": fixed - rows["logits"] + (4 * largest if zero else 0),
        "CPU: loading": 0.0 if zero else 4 * every,
        "CPU: checkpoint": (12 * trained + frozen) / gpus if zero else 12 * trained + frozen,
        "CPU: model": 4 * every,
    }


# ---- models and micro-batches -----------------------------------------------------------------------------------


def _config(profile: Profile, stage: StageConfig) -> dict[str, Any]:
    """The `model` of a stage and of all that it builds on, with a backbone of random weights."""
    found, spec = _own_config(profile, stage), stage_spec(stage.method, stage.stage)
    size = profile.size or found.get("size")
    own = {field.name for field in fields(spec.config)}  # and not those of the stages before
    found = {key: value for key, value in found.items() if key in own}
    if spec.mask_tokenizer:
        return found
    if not size:
        raise UserError("The plan needs the size of the backbone; add size=1B (2B, 4B, 8B, 26B, 38B, 78B).")
    return {key: value for key, value in found.items() if key not in FRESH} | {"backbone": f"random:{size}"}


def _own_config(profile: Profile, stage: StageConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for value in stage.model.values():
        if isinstance(value, str) and value.startswith("stage:"):
            found |= _own_config(profile, profile.stages[value[6:]])
    return found | {key: value for key, value in stage.model.items() if key not in GROUPS}


def _costs(
    method: Any, stage: StageConfig, share: float, machine: Machine, precision: torch.dtype
) -> dict[str, dict[str, float]]:
    """FLOPs, tokens and bytes of a micro-batch with masks, of one without, and of the largest; `share` of the samples
    hold a mask."""
    estimate = method_spec(stage.method).estimate
    if estimate is None:
        raise UserError(f"{stage.method} declares no estimate of its cost, so its stages cannot be planned.")
    images = stage.micro_batch_images or max(1, stage.images_per_step // machine.gpus)
    samples = images * stage.expressions_per_image
    costs = {}
    for key, tiles, masked in (
        ("masked", machine.tiles or None, True), ("plain", machine.tiles or None, False), ("largest", math.inf, True)
    ):  # fmt: skip
        masks = samples if masked and share else 0
        load = Load(images, samples, machine.text, machine.answer, masks, tiles)
        costs[key] = vars(resolve(estimate)(method, load, precision))
    return costs


# ---- printing ---------------------------------------------------------------------------------------------------


def print_plan(profile: Profile, names: Sequence[str], machine: Machine) -> None:
    """Tables of the named stages, or all."""
    plans = [plan_stage(profile, name, machine) for name in names or profile.stages]
    console = Console(width=None if os.environ.get("COLUMNS") else 120)
    console.print(_summary(profile, plans, machine))
    for each in plans:
        console.print(_memory(each, machine))
    console.print(
        f"Assumed: {machine.text} tokens of text a sample, {machine.answer} of them learned"
        + (f", {machine.tiles:g} tiles an image" if machine.tiles else ", half of the most tiles an image")
        + "; memory for the most tiles, every sample with a mask. Change with text=, answer=, tiles=, mfu=, gpus=, "
        "memory=.",
        highlight=False,
    )


def print_sizes(profile: Profile, names: Sequence[str], machine: Machine, sizes: Sequence[str]) -> None:
    """A table for each of the named stages, or all: what a backbone of each size takes, with the first engine of which
    all fits on the GPUs, or with the one that takes least."""
    console = Console(width=None if os.environ.get("COLUMNS") else 120)
    for name in names or profile.stages:
        title = f"{name} on {machine.gpus} GPUs of {machine.memory:g} GB: GB of one, activations computed again"
        table = Table(title=cell(title))
        for column in ("size", "parameters", "engine", *SIZE_ROWS.values(), "h H100"):
            table.add_column(column, justify="left" if column in ("size", "engine") else "right")
        for size in sizes:
            plan = plan_stage(replace(profile, size=size), name, machine)
            zero = fitting(plan, machine)
            rows = plan.memory[max(plan.memory) if zero is None else zero]
            engine = "does not fit" if zero is None else f"ZeRO-{zero}" if zero else "plain"
            marks = [f"{rows[row]:.1f}" + _mark(row, rows[row], machine) for row in SIZE_ROWS]
            table.add_row(size, short(plan.parameters), engine, *marks, f"{plan.hours('H100', machine.mfu):,.0f}")
        console.print(table)


def fitting(plan: StagePlan, machine: Machine) -> int | None:
    """The first engine with which loading, training with activations computed again, and saving fit; None: with none.
    Validating can be left out, with train.validate_samples=0."""
    needed = ("loading", "training, checkpointed", "saving")
    fits = [zero for zero, rows in plan.memory.items() if all(machine.holds(rows[row]) for row in needed)]
    return min(fits, default=None)


def _mark(row: str, gigabytes: float, machine: Machine) -> str:
    return " no" if row in PEAKS and not machine.holds(gigabytes) else ""


def _summary(profile: Profile, plans: Sequence[StagePlan], machine: Machine) -> Table:
    table = Table(title=cell(f"{profile.name} {profile.size}: hours at {machine.mfu:.0%} MFU"))
    for column in ("stage", "GPUs", "parameters", "trained", "steps", "samples", "tokens", "EFLOP"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for gpu in GPUS:
        table.add_column(f"h {gpu}", justify="right")
    for each in plans:
        counts = [short(each.parameters), short(each.trained), f"{each.steps:,}", short(each.samples * each.steps)]
        hours = [f"{each.hours(gpu, machine.mfu):,.1f}" for gpu in GPUS]
        counts += [short(each.tokens), f"{each.flops / 1e18:,.1f}"]
        table.add_row(cell(each.name), str(each.gpus), *counts, *hours)
    return table


def _memory(plan: StagePlan, machine: Machine) -> Table:
    """One column per ZeRO stage; peaks that fit are marked."""
    table = Table(title=cell(f"{plan.name}: GB per GPU of {machine.memory:g}"))
    table.add_column("")
    for zero in plan.memory:
        table.add_column(f"ZeRO-{zero}" if zero else "plain", justify="right")
    for row in next(iter(plan.memory.values())):
        values = [rows[row] for rows in plan.memory.values()]
        fits = ["" if row not in PEAKS else " fits" if machine.holds(v) else " no" for v in values]
        table.add_row(row, *(f"{v:.1f}{fit}" for v, fit in zip(values, fits, strict=True)))
    return table
