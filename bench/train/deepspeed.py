"""DeepSpeed's ZeRO behind the seam of LocalEngine: optimiser states (1), gradients (2) and weights (3) are shared out.

Weights stay float32 and products run in bfloat16 through DeepSpeed's own autocast, exactly as in LocalEngine:
DeepSpeed's `bf16` would round the rotary frequencies and the mask tokenizer, whose codes must not move. Checkpoints are
gathered tensor by tensor into the form that every engine writes, so a run may resume with another stage or number of
processes and its weights are plain safetensors at any time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.config import StageConfig, TrainConfig
from bench.distributed import DistributedContext, lost
from bench.runtime import to_device
from bench.train.batches import MicroBatch
from bench.train.engine import LossError, load_module, means, optimizer_state, parameter_groups, rate
from bench.train.engine import total_loss as weighted
from bench.train.freezing import frozen_parts
from bench.train.throughput import FlopMeter
from methods.base import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")


class _Trainee(nn.Module):
    """The method as DeepSpeed wants it: a module whose forward pass is the loss."""

    def __init__(self, method: nn.Module, weights: Mapping[str, float]):
        super().__init__()
        self.method, self.weights = method, weights
        self.mine: set[int] | None = None  # ids of the parameters that DeepSpeed knows, None: all

    def named_parameters(self, *args: Any, **words: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """DeepSpeed asks again at every step; what was hidden from it at the start stays so."""
        for name, p in super().named_parameters(*args, **words):
            if self.mine is None or id(p) in self.mine:
                yield name, p

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        losses = self.method.loss(batch)
        return weighted(losses, self.weights), {name: loss.detach() for name, loss in losses.items()}


class DeepSpeedEngine:
    """Started by the first use, after `load_state` if there is a state: DeepSpeed copies the weights it finds."""

    def __init__(
        self, module: nn.Module, config: StageConfig, train: TrainConfig, precision: torch.dtype,
        device: torch.device, context: DistributedContext, parts: int, meter: FlopMeter,
    ):  # fmt: skip
        if config.muon_lr:
            raise UserError("Muon needs whole matrices, which ZeRO cuts up; set train.zero=0 or muon_lr to 0.")
        self.module, self.config, self.train, self.precision = module, config, train, precision
        self.device, self.context, self.parts, self.meter = device, context, parts, meter
        self.parameters = dict(module.named_parameters())
        self._engine: Any = None

    @property
    def engine(self) -> Any:
        """DeepSpeed's engine."""
        if self._engine is None:
            deepspeed = _deepspeed(self.device)
            groups, _ = parameter_groups(self.module, self.config)
            self.rates = [group["lr"] for group in groups]
            optimizer = torch.optim.AdamW(groups, lr=self.config.lr, betas=tuple(self.config.betas))
            trainee = _Trainee(self.module, self.config.weights)
            with _kept_whole(self.module):
                trainee.mine = {id(p) for p in trainee.parameters()}
                self._engine, *_ = deepspeed.initialize(model=trainee, optimizer=optimizer, config=self.settings())
        return self._engine

    def settings(self) -> dict[str, Any]:
        """DeepSpeed's configuration."""
        zero: dict[str, Any] = {"stage": self.train.zero, "overlap_comm": self.device.type == "cuda"}
        if self.train.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
            if self.train.zero == 3:
                zero["offload_param"] = {"device": "cpu"}
        return {
            "train_micro_batch_size_per_gpu": 1,  # counts nothing here: a micro-batch is what the loop hands over
            "gradient_accumulation_steps": self.parts // self.context.size,
            "gradient_clipping": self.config.clip,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "torch_autocast": {
                "enabled": self.precision == torch.bfloat16,
                "dtype": "bfloat16",
                "lower_precision_safe_modules": [],  # weights travel as they are: codes must not be rounded
            },
            "steps_per_print": 10**9,
        }

    def step(self, number: int, micro_batches: Iterable[MicroBatch]) -> dict[str, float]:
        for group, full in zip(self.engine.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = full * rate(number, self.config)
        try:
            values = [self._backward(micro) for micro in micro_batches]
        except RuntimeError as error:
            if self.context.size > 1 and "peer" in str(error):
                raise lost(self.context, error) from None
            raise
        everyone = [each for of_process in self.context.gather(values) for each in of_process]
        return means(everyone) | {"_gradient": float(self.engine.get_global_grad_norm())}

    def _backward(self, micro: MicroBatch) -> dict[str, float]:
        torch.manual_seed(micro.seed)
        with self.meter.counting(self.module, micro.tokens):
            total, losses = self.engine(to_device(micro.batch, self.device))
            total = micro.weight * total
        if not torch.isfinite(total):
            raise LossError(float(total.detach()), micro.names)
        self.engine.backward(total)
        self.engine.step()
        return {"loss": float(total.detach())} | {name: float(loss) for name, loss in losses.items()}

    # ---- saving -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_optimizer_state

        tensors: dict[str, Tensor] = {}
        states = self.engine.optimizer.optimizer.state
        started = any(MOMENTS[0] in state for state in states.values())
        if started:
            self._link()
        for name, p in self.parameters.items():
            with self._gathered([p]):
                self._keep(tensors, f"module/{name}", p)
            for key in MOMENTS if started and p.requires_grad else ():
                self._keep(tensors, f"optimizer/{name}/{key}", safe_get_full_optimizer_state(p, key))
            if started and p.requires_grad:
                self._keep(tensors, f"optimizer/{name}/step", self._count())
        persistent = self.module.state_dict().keys() - self.parameters.keys()
        for name, buffer in self.module.named_buffers():
            if name in persistent:
                self._keep(tensors, f"module/{name}", buffer)
        return tensors

    def _keep(self, tensors: dict[str, Tensor], name: str, tensor: Tensor) -> None:
        if self.context.first:
            tensors[name] = tensor.detach().cpu().clone().contiguous()

    def _count(self) -> Tensor:
        """Updates so far, as AdamW counts them."""
        return next(state["step"] for state in self.engine.optimizer.optimizer.state.values() if "step" in state)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        load_module(self.module, tensors)
        saved = {n: optimizer_state(tensors, n) for n, p in self.parameters.items() if p.requires_grad}
        saved = {name: state for name, state in saved.items() if state}
        if saved:
            self._restore(saved)

    def _restore(self, saved: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Fill AdamW's states, which ZeRO holds for flat shares of many parameters."""
        zero = self.engine.optimizer
        flats = zero.fp32_partitioned_groups_flat if self.train.zero == 3 else zero.single_partition_of_fp32_groups
        count = next(iter(saved.values()))["step"]
        for flat in flats:
            moments = {key: torch.zeros_like(flat.data) for key in MOMENTS}
            zero.optimizer.state[flat] = {"step": count.clone()} | moments
        self._link()
        for name, state in saved.items():
            for key in MOMENTS:
                self._set_moment(self.parameters[name], key, state[key])

    def _link(self) -> None:
        """Tell ZeRO 1 and 2 where each parameter's moments are; by itself DeepSpeed does so when only the first
        group of parameters has some."""
        if self.train.zero < 3:
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _set_moment(self, p: nn.Parameter, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.train.zero < 3:
            safe_set_full_optimizer_state(p, value.to(self.device), key)
            return
        share = p.ds_tensor.ds_numel if hasattr(p.ds_tensor, "ds_numel") else p.ds_tensor.numel()
        padded = nn.functional.pad(value.flatten(), (0, share * self.context.size - value.numel()))
        mine = padded[share * self.context.rank : share * (self.context.rank + 1)].to(self.device)
        safe_set_local_optimizer_state(p, mine, key)

    @contextmanager
    def whole(self) -> Iterator[None]:
        _ = self.engine
        with self._gathered(list(self.parameters.values())):
            yield

    def close(self) -> None:
        """DeepSpeed's engine outlives its last reference: with ZeRO 1 and 2 until `destroy`, with ZeRO 3 for ever, so
        that its buffers are taken from it."""
        if self._engine is None:
            return
        zero, self._engine = self._engine.optimizer, self._engine.destroy()
        if self.train.zero == 3:
            for holder in (zero.optimizer, zero):
                vars(holder).clear()
            for p in self.parameters.values():
                vars(p).pop("ds_tensor", None)
                p.data = p.data.new_empty(0)

    def _gathered(self, parameters: list[nn.Parameter]) -> Any:
        import deepspeed

        shared = [p for p in parameters if hasattr(p, "ds_id")]
        return deepspeed.zero.GatheredParameters(shared, enabled=bool(shared))


@contextmanager
def _kept_whole(module: nn.Module) -> Iterator[None]:
    """Hide the small frozen parts, so that they stay whole and in place on every process.

    With ZeRO 3 the use of a part is an exchange between all processes, and not every micro-batch has a mask for the
    mask tokenizer to encode.
    """
    hidden = frozen_parts(module)
    for parent, name, part in hidden:
        _holder(parent, part)[name] = None
    try:
        yield
    finally:
        for parent, name, part in hidden:  # looked up again: ZeRO 3 puts a dict of its own in the place of the first
            _holder(parent, part)[name] = part


def _holder(parent: nn.Module, part: nn.Module | nn.Parameter) -> dict[str, Any]:
    """Where a module keeps a part; setting an attribute would register it again and change the order."""
    return parent._parameters if isinstance(part, nn.Parameter) else parent._modules


def _deepspeed(device: torch.device) -> Any:
    """The package, with a process group to work in. Raises UserError if it is not installed."""
    try:
        import deepspeed
        from deepspeed.utils import logger
    except ImportError:
        raise UserError("train.zero needs DeepSpeed; install it with `pip install 'genseg-bench[train]'`.") from None
    logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # on a CPU it would be compiled for minutes
    os.environ.setdefault("LOCAL_RANK", "0")  # asked for even where there is one process
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return deepspeed
