"""The optimiser side of a step, apart from the loop, so that another engine can take its place.

LocalEngine keeps a whole model on each process and sums gradients over them: AdamW, warm-up, a falling rate, gradient
clipping, autocast. bench/train/deepspeed.py shares weights and optimiser states out instead.

Models trained from scratch may use Muon for the matrices of their linear layers: it orthogonalises each update, which
takes a small transformer through the plateau in which its attention is still uniform several times sooner.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.config import StageConfig
from bench.distributed import SINGLE_PROCESS, DistributedContext
from bench.runtime import to_device
from bench.train.batches import MicroBatch
from bench.train.checkpoints import Shard
from bench.train.muon import Muon
from bench.train.throughput import FlopMeter
from methods.base import UserError


class Engine(Protocol):
    """What the loop asks of an engine. Every process calls every function at the same time."""

    def step(self, number: int, micro_batches: Iterable[MicroBatch]) -> dict[str, float]:
        """One update from this process's micro-batches of a step -> the losses' means over all processes.
        Raises LossError before the update if a loss is not finite."""
        ...

    def state(self) -> Shard | None:
        """What this process has to save, copied to the CPU's memory: tensors of the module under `module/NAME`, of the
        optimiser under `optimizer/NAME/KEY`. Names and shapes are the same for every engine and number of processes."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`, on every process."""
        ...

    def whole(self) -> Any:
        """A context in which the module's parameters are complete on every process."""
        ...

    def collect(self) -> None:
        """Put the whole weights, in float32, into the module of the first process, in the CPU's memory where they were
        shared out, and give back the rest; the engine is of no use afterwards, nor are the other processes' modules."""
        ...

    def close(self) -> None:
        """Give back the memory; neither engine nor module is of use afterwards."""
        ...


class LossError(FloatingPointError):
    """A loss that is no number, with the names of the samples that gave it."""

    def __init__(self, value: float, names: Sequence[str]):
        super().__init__(f"the loss is {value}")
        self.names = list(names)


def rate(step: int, config: StageConfig) -> float:
    """The factor on all learning rates: linear warm-up; then 1 and a linear fall to `min_lr_ratio` over the last
    `decay_ratio` of the run ("linear"), or half a cosine wave from 1 to `min_lr_ratio` ("cosine")."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    if config.schedule == "cosine":
        done = max(0, step - config.warmup) / max(1, config.steps - config.warmup)
        return warm * (config.min_lr_ratio + (1 - config.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
    left = 1 - step / config.steps
    return warm * max(config.min_lr_ratio, min(1.0, left / config.decay_ratio if config.decay_ratio > 0 else 1.0))


def matrices(module: nn.Module) -> set[str]:
    """Names of the weights of linear layers, without output heads (`lm_head`), which behave like embeddings."""
    kinds = (nn.Linear, nn.MultiheadAttention)
    names = set()
    for prefix, part in module.named_modules():
        if isinstance(part, kinds) and not prefix.endswith("lm_head"):
            names |= {f"{prefix}.{name}" for name, p in part.named_parameters(recurse=False) if p.ndim == 2}
    return names


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern (`*` stands for anything) fits. Raises UserError if there are none."""
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise UserError(f"No parameter is called {pattern!r}; correct freeze or lr_scale (* stands for anything).")
    return found


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Stop training the parameters whose names fit one of the patterns."""
    parameters = dict(module.named_parameters())
    for pattern in patterns:
        for name in matching(pattern, parameters):
            parameters[name].requires_grad_(False)


def parameter_groups(module: nn.Module, config: StageConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Groups for AdamW (tensors with more than one dimension are decayed) and for Muon (`matrices`, if
    `config.muon_lr`), each with its own rate where `config.lr_scale` says so."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    factor: dict[str, float] = {}
    for pattern, value in config.lr_scale.items():
        factor = dict.fromkeys(matching(pattern, trained), value) | factor  # the first pattern that fits counts
    orthogonal = matrices(module) if config.muon_lr else set()
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, p in trained.items():
        decay = config.weight_decay if p.ndim > 1 else 0.0
        groups.setdefault((name in orthogonal, decay, factor.get(name, 1.0)), []).append(p)
    made = ([], [])
    for (muon, decay, scale), members in groups.items():
        base = config.muon_lr if muon else config.lr
        made[muon].append({"params": members, "lr": base * scale, "weight_decay": decay})
    return made


def total_loss(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum of the losses that train."""
    return sum(weights.get(name, 1.0) * loss for name, loss in losses.items() if not name.startswith("_"))


def means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Name -> mean over the micro-batches that have it."""
    names = dict.fromkeys(name for each in values for name in each)
    held = {name: [each[name] for each in values if name in each] for name in names}
    return {name: sum(found) / len(found) for name, found in held.items()}


class LocalEngine:
    """A whole model on each process; with several, their gradients are summed.

    parts: micro-batches of a step over all processes, by which the losses are divided.
    """

    def __init__(
        self, module: nn.Module, config: StageConfig, precision: torch.dtype, device: torch.device,
        context: DistributedContext = SINGLE_PROCESS, parts: int = 1, meter: FlopMeter | None = None,
    ):  # fmt: skip
        self.module, self.config, self.precision, self.device = module.to(device), config, precision, device
        self.context, self.parts, self.meter = context, parts, meter or FlopMeter(None)
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.loss: nn.Module = _Loss(module)
        if context.size > 1:  # a batch need not use every parameter; buffers are counters that the module itself sums
            self.loss = DistributedDataParallel(self.loss, find_unused_parameters=True, broadcast_buffers=False)
        adam, muon = parameter_groups(module, config)
        self.optimizers: list[torch.optim.Optimizer] = []
        if adam:
            fused = device.type == "cuda"
            self.optimizers.append(torch.optim.AdamW(adam, lr=config.lr, betas=tuple(config.betas), fused=fused))
        if muon:
            self.optimizers.append(Muon(muon, lr=config.muon_lr, adjust_lr_fn="match_rms_adamw"))
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def step(self, number: int, micro_batches: Iterable[MicroBatch]) -> dict[str, float]:
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, full in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = full * rate(number, self.config)
        last = self.parts // self.context.size - 1
        with self.context.partners():
            values = [self._backward(micro, place == last) for place, micro in enumerate(micro_batches)]
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        everyone = [each for of_process in self.context.gather(values) for each in of_process]
        return means(everyone) | {"_gradient": float(norm)}

    def _backward(self, micro: MicroBatch, last: bool) -> dict[str, float]:
        """Add a micro-batch's gradients; those of all processes are summed while the last one of a step runs."""
        batch = to_device(micro.batch, self.device)
        torch.manual_seed(micro.seed)
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16),
            self.meter.counting(self.module, micro.tokens),
            nullcontext() if last or self.context.size == 1 else self.loss.no_sync(),
        ):
            losses = self.loss(batch)
        total = micro.weight * total_loss(losses, self.config.weights)
        if not torch.isfinite(total):
            raise LossError(float(total.detach()), micro.names)
        (total / self.parts * self.context.size).backward()  # DDP takes the mean over processes
        return {"loss": float(total.detach())} | {name: float(loss.detach()) for name, loss in losses.items()}

    def state(self) -> Shard | None:
        if not self.context.first:
            return None
        tensors = {f"module/{name}": t.detach().cpu() for name, t in self.module.state_dict().items()}
        for name, parameter in self.parameters.items():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer/{name}/{key}"] = value.detach().cpu()
        return Shard({name: t.clone().contiguous() for name, t in tensors.items()})

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        load_module(self.module, tensors)
        for name, parameter in self.parameters.items():
            state = optimizer_state(tensors, name)
            if state:
                optimizer = next(o for o in self.optimizers if any(parameter is p for p in _parameters(o)))
                optimizer.state[parameter] = {
                    key: t if key == "step" and parameter.device.type == "cpu" else t.to(parameter.device)
                    for key, t in state.items()
                }

    @contextmanager
    def whole(self) -> Iterator[None]:
        yield

    def collect(self) -> None:
        self.close()

    def close(self) -> None:
        self.optimizers.clear()
        self.loss = nn.Identity()


class _Loss(nn.Module):
    """A method's loss as a forward pass, which is what DistributedDataParallel watches."""

    def __init__(self, method: nn.Module):
        super().__init__()
        self.method = method

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return self.method.loss(batch)


def load_module(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The module's part of a saved state."""
    module.load_state_dict({name[7:]: t for name, t in tensors.items() if name.startswith("module/")})


def optimizer_state(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The optimiser's part of a saved state that belongs to one parameter."""
    prefix = f"optimizer/{name}/"
    return {key[len(prefix) :]: t for key, t in tensors.items() if key.startswith(prefix)}


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
