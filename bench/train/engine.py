"""The optimiser side of a step, apart from the loop, so that another engine can take its place.

LocalEngine runs on one device: AdamW, warm-up, constant rate, linear decay, gradient clipping, autocast.

Models trained from nothing may use Muon for the matrices of their linear layers: it orthogonalises each update, which
takes a small transformer through the plateau in which its attention is still uniform several times sooner.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.config import StageConfig
from methods.base import UserError


def rate(step: int, config: StageConfig) -> float:
    """The factor on all learning rates: linear warm-up, 1, and a linear fall to `floor` over the last `decay` of the
    run."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    left = 1 - step / config.steps
    return warm * max(config.floor, min(1.0, left / config.decay if config.decay > 0 else 1.0))


def matrices(module: nn.Module) -> set[str]:
    """Names of the weights of linear layers, without output heads (`lm_head`), which behave like embeddings."""
    kinds = (nn.Linear, nn.MultiheadAttention)
    names = set()
    for prefix, part in module.named_modules():
        if isinstance(part, kinds) and not prefix.endswith("lm_head"):
            names |= {f"{prefix}.{name}" for name, p in part.named_parameters(recurse=False) if p.ndim == 2}
    return names


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 where the device multiplies it faster than float32, else float32."""
    if name == "auto":
        amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
        return torch.bfloat16 if device.type == "cuda" or amx else torch.float32
    if name not in ("float32", "bfloat16"):
        raise UserError(f"There is no precision {name!r}; choose auto, float32 or bfloat16.")
    return getattr(torch, name)


class LocalEngine:
    """One process, one device. `step` returns the losses of a batch as numbers after having applied them."""

    def __init__(self, module: nn.Module, config: StageConfig, precision: torch.dtype, device: torch.device):
        self.module, self.config, self.precision, self.device = module, config, precision, device
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        orthogonal = matrices(module) if config.matrix_lr else set()
        groups: dict[str, list[nn.Parameter]] = {"decayed": [], "plain": [], "orthogonal": []}
        for name, p in self.parameters.items():
            groups["orthogonal" if name in orthogonal else "decayed" if p.ndim > 1 else "plain"].append(p)
        decay = config.weight_decay
        adam = [{"params": groups["decayed"], "weight_decay": decay}, {"params": groups["plain"], "weight_decay": 0.0}]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(adam, lr=config.lr, betas=tuple(config.betas))
        ]
        if groups["orthogonal"]:
            rates = {"lr": config.matrix_lr, "weight_decay": decay, "adjust_lr_fn": "match_rms_adamw"}
            self.optimizers.append(torch.optim.Muon(groups["orthogonal"], **rates))
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def step(self, number: int, batch: dict[str, object]) -> dict[str, float]:
        """Forward, backward and update for one batch. Raises FloatingPointError if the loss is not finite."""
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, full in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = full * rate(number, self.config)
        batch = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            losses = self.module.loss(batch)
        weights = self.config.weights
        total = sum(weights.get(name, 1.0) * loss for name, loss in losses.items() if not name.startswith("_"))
        if not torch.isfinite(total):
            raise FloatingPointError(f"the loss is {float(total.detach())}")
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        return {"loss": float(total.detach()), **values, "_gradient": float(norm)}

    def state(self) -> dict[str, Tensor]:
        """Tensors to save: the module's, and the optimiser's under `optimizer/NAME/KEY`."""
        tensors = {f"module/{name}": t.detach().cpu() for name, t in self.module.state_dict().items()}
        for name, parameter in self.parameters.items():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer/{name}/{key}"] = value.detach().cpu()
        return {name: t.clone().contiguous() for name, t in tensors.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        module = {name[7:]: t for name, t in tensors.items() if name.startswith("module/")}
        self.module.load_state_dict(module)
        for name, parameter in self.parameters.items():
            prefix = f"optimizer/{name}/"
            state = {key[len(prefix) :]: t for key, t in tensors.items() if key.startswith(prefix)}
            if state:
                optimizer = next(o for o in self.optimizers if any(parameter is p for p in _parameters(o)))
                optimizer.state[parameter] = {
                    key: t if key == "step" else t.to(parameter.device) for key, t in state.items()
                }


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
