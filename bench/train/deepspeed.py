"""DeepSpeed's ZeRO behind the seam of LocalEngine: optimiser states (1), gradients (2) and weights (3) are shared out.

In bfloat16 (DeepSpeed's own mode) the working weights are bfloat16; their float32 masters are shared out with AdamW's
moments, and are what checkpoints and the saved model hold. Frozen parts of the mask tokenizer decide ids, which no
rounding may move: they are hidden from DeepSpeed and stay float32. Checkpoints are gathered tensor by tensor into the
form that every engine writes, so a run may resume with another stage or number of processes.
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
from bench.train.checkpoints import Shard, share
from bench.train.engine import LossError, means, parameter_groups, rate
from bench.train.engine import total_loss as weighted
from bench.train.freezing import frozen_parts, parameters_of
from bench.train.throughput import FlopMeter
from methods.base import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")
AT_A_TIME = 2**27  # elements that are whole on a device while a model is shared out


class _Trainee(nn.Module):
    """The method as DeepSpeed wants it: a module whose forward pass is the loss."""

    def __init__(self, method: nn.Module, weights: Mapping[str, float], low: bool):
        """low: products in bfloat16; norms, softmax and what else autocast leaves alone in float32."""
        super().__init__()
        self.method, self.weights, self.low = method, weights, low
        self.mine: set[int] | None = None  # ids of the parameters that DeepSpeed knows, None: all

    def named_parameters(self, *args: Any, **words: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """DeepSpeed asks again at every step; what was hidden from it at the start stays so."""
        for name, p in super().named_parameters(*args, **words):
            if self.mine is None or id(p) in self.mine:
                yield name, p

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(batch["ids"].device.type, torch.bfloat16, enabled=self.low):
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
        self.low = precision == torch.bfloat16
        self.parameters = dict(module.named_parameters())
        self.shapes = {name: p.shape for name, p in self.parameters.items()}
        self.source: Mapping[str, Tensor] | None = None  # of weights in place of the module's
        self._engine: Any = None

    @property
    def engine(self) -> Any:
        """DeepSpeed's engine."""
        if self._engine is None:
            deepspeed = _deepspeed(self.device)
            groups, _ = parameter_groups(self.module, self.config)
            self.rates = [group["lr"] for group in groups]
            optimizer = torch.optim.AdamW(groups, lr=self.config.lr, betas=tuple(self.config.betas))
            trainee = _Trainee(self.module, self.config.weights, self.low)
            self._place()
            with _kept_whole(self.module):
                trainee.mine = {id(p) for p in trainee.parameters()}
                self._engine, *_ = deepspeed.initialize(model=trainee, optimizer=optimizer, config=self.settings())
        return self._engine

    def _place(self) -> None:
        """Round weights and move them to the device, or with ZeRO 3 one's share of them, a few at a time: nothing holds
        the whole model in float32. Weights are the module's, which may lie in files, or those of `source`."""
        whole = {id(p) for *_, part in frozen_parts(self.module) for p in parameters_of(part)}
        exact = whole & {id(p) for p in self._mask_tokenizer()}
        waiting: list[nn.Parameter] = []
        for name, p in self.parameters.items():
            data = p.data if self.source is None else self.source[f"module/{name}"]
            p.data = data.to(self.device, torch.bfloat16 if self.low and id(p) not in exact else torch.float32)
            if self.train.zero == 3 and id(p) not in whole:
                waiting.append(p)
            if sum(each.numel() for each in waiting) > AT_A_TIME:
                self._share_out(waiting)
        self._share_out(waiting)
        for name, buffer in self.module.named_buffers():
            given = None if self.source is None else self.source.get(f"module/{name}")
            buffer.data = (buffer.data if given is None else given).to(self.device)

    def _share_out(self, parameters: list[nn.Parameter]) -> None:
        """Leave of each parameter in a list, which is emptied, what ZeRO 3 gives this process."""
        import deepspeed

        if parameters:
            deepspeed.zero.Init(module=nn.ParameterList(parameters), config_dict_or_path=self.settings())
            parameters.clear()

    def _mask_tokenizer(self) -> list[nn.Parameter]:
        masks = self.module.mask_tokenizer
        return list(masks.parameters()) if masks else []

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
            # a gradient that is not finite shows in the next loss, which stops the run; a step is never skipped unseen
            "bf16": {"enabled": self.low, "check_grad_overflow": False},
            # ZeRO-1 sums micro-batches in bfloat16: with float32 DeepSpeed would take another optimiser for it
            "data_types": {"grad_accum_dtype": "fp32" if self.low and self.train.zero > 1 else None},
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

    def state(self) -> Shard:
        kept, shapes, size = {}, {}, self.context.size
        for name, shape, tensor in self._shares():
            shapes[name] = list(shape)
            if tensor.numel() or self.context.first:
                kept[name] = tensor.detach().cpu().clone().contiguous()
        if size == 1:
            kept = {name: tensor.reshape(shapes[name]) for name, tensor in kept.items()}
        return Shard(kept, self.context.rank, size, shapes)

    def _shares(self) -> Iterator[tuple[str, torch.Size, Tensor]]:
        """(name, shape of the whole, this process's flat share) of all that a checkpoint holds."""
        states = self.engine.optimizer.optimizer.state
        started = any(MOMENTS[0] in state for state in states.values())
        if started:
            self._link()
        for name, p in self.parameters.items():
            yield f"module/{name}", self.shapes[name], self._share(p, self.shapes[name])
            if started and p.requires_grad:
                for key in MOMENTS:
                    yield f"optimizer/{name}/{key}", self.shapes[name], self._share(p, self.shapes[name], key)
                yield f"optimizer/{name}/step", torch.Size(), self._own(self._count())
        for name, buffer in self._buffers():
            yield f"module/{name}", buffer.shape, self._own(buffer)

    def _share(self, p: nn.Parameter, shape: torch.Size, key: str | None = None) -> Tensor:
        """This process's flat share of a parameter's float32 master, or of one of its moments."""
        from deepspeed import utils

        if not p.requires_grad:
            with self._gathered([p]):
                return self._own(p).float()
        if self.train.zero == 3:
            local = utils.safe_get_local_optimizer_state(p, key) if key else utils.safe_get_local_fp32_param(p)
            return local[: max(0, shape.numel() - self.context.rank * local.numel())]  # without ZeRO's padding
        return self._own(utils.safe_get_full_optimizer_state(p, key) if key else utils.safe_get_full_fp32_param(p))

    def _own(self, whole: Tensor) -> Tensor:
        return share(whole.detach(), self.context.rank, self.context.size)

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        """The persistent ones."""
        persistent = self.module.state_dict().keys() - self.parameters.keys()
        yield from ((name, buffer) for name, buffer in self.module.named_buffers() if name in persistent)

    def _count(self) -> Tensor:
        """Updates so far, as AdamW counts them."""
        return next(state["step"] for state in self.engine.optimizer.optimizer.state.values() if "step" in state)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.source = tensors
        trained = {name: p for name, p in self.parameters.items() if p.requires_grad}
        saved = {name: p for name, p in trained.items() if f"optimizer/{name}/step" in tensors}
        zero = self.engine.optimizer
        self.source = None
        if not saved:
            return
        # Masters, which DeepSpeed has made of rounded weights, and AdamW's states, which ZeRO holds for flat shares of
        # many parameters.
        flats = zero.fp32_partitioned_groups_flat if self.train.zero == 3 else zero.single_partition_of_fp32_groups
        count = tensors[f"optimizer/{next(iter(saved))}/step"]
        for flat in flats:
            moments = {key: torch.zeros_like(flat.data) for key in MOMENTS}
            zero.optimizer.state[flat] = {"step": count.clone()} | moments
        self._link()
        for name, p in saved.items():
            self._set(p, None, tensors[f"module/{name}"])
            for key in MOMENTS:
                self._set(p, key, tensors[f"optimizer/{name}/{key}"])

    def _link(self) -> None:
        """Tell ZeRO 1 and 2 where each parameter's moments are; by itself DeepSpeed does so when only the first
        group of parameters has some."""
        if self.train.zero < 3:
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _set(self, p: nn.Parameter, key: str | None, value: Tensor) -> None:
        """Set a parameter's master (None) or one of its moments on all processes."""
        from deepspeed import utils

        set_param, set_state = utils.safe_set_full_fp32_param, utils.safe_set_full_optimizer_state
        if self.train.zero == 3:
            mine = self._own(value)
            value = nn.functional.pad(mine, (0, -(-value.numel() // self.context.size) - mine.numel()))
            set_param, set_state = utils.safe_set_local_fp32_param, utils.safe_set_local_optimizer_state
        if key is None:
            set_param(p, value.to(self.device))
        else:
            set_state(p, value.to(self.device), key)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """The mask tokenizer is float32 within, its trained parts too, as it is where a model answers in bfloat16."""
        _ = self.engine
        with self._gathered(list(self.parameters.values())):
            rounded = [(p, p.data) for p in self._mask_tokenizer() if p.dtype == torch.bfloat16]
            for p, data in rounded:
                p.data = data.float()
            yield
            for p, data in rounded:
                p.data = data

    def collect(self) -> None:
        weights = dict(self._weights())
        self._stop()
        for name, p in self.parameters.items():
            if self.context.first:
                p.data = weights[name]

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each parameter, float32 and whole, in the memory of the first process; the others get none."""
        from deepspeed.utils import safe_get_full_fp32_param

        _ = self.engine
        for name, p in self.parameters.items():
            with self._gathered([] if p.requires_grad else [p]):
                whole = safe_get_full_fp32_param(p) if p.requires_grad else p.float()
                if self.context.first:
                    yield name, whole.detach().cpu().clone()

    def close(self) -> None:
        self._stop()
        if self.train.zero == 3:
            for p in self.parameters.values():
                p.data = p.data.new_empty(0)

    def _stop(self) -> None:
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
