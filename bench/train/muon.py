"""Muon where bfloat16 is slow: PyTorch's own orthogonalises in bfloat16, which a CPU without such units emulates.

There it took 5 of 7.6 seconds of a step of a mask tokenizer; in float32 it takes a tenth of that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.runtime import fast_bfloat16


class Muon(torch.optim.Muon):
    """PyTorch's Muon, with the same state; the iterations run in float32 where bfloat16 is slow."""

    @torch.no_grad()
    def step(self, closure=None):
        if all(fast_bfloat16(p.device) for group in self.param_groups for p in group["params"]):
            return super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return None

    def _update(self, parameter: Tensor, group: dict) -> None:
        """Nesterov momentum, orthogonalised and scaled to AdamW's usual length; weight decay beside it."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        buffer = state["momentum_buffer"]
        buffer.lerp_(parameter.grad, 1 - group["momentum"])
        direction = orthogonalised(parameter.grad.lerp(buffer, group["momentum"]), group)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)


def orthogonalised(matrix: Tensor, group: dict) -> Tensor:
    """Newton-Schulz iterations in float32 towards the nearest matrix with equal singular values."""
    a, b, c = group["ns_coefficients"]
    x = matrix.float()
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    x = x / x.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x
