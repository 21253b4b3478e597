"""Muon in float32 is PyTorch's own, up to the rounding of bfloat16."""

from __future__ import annotations

import torch

from bench.train import muon


def trained(kind, steps=3):
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(*size, generator=generator)) for size in ((12, 30), (30, 12), (9, 9))]
    optimizer = kind(parameters, lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return parameters, optimizer


def test_it_steps_as_pytorchs_does(monkeypatch):
    monkeypatch.setattr(muon, "fast_bfloat16", lambda device: False)
    (ours, mine), (theirs, its) = trained(muon.Muon), trained(torch.optim.Muon)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=4e-3)  # a step is some 0.05 x 0.2 x 5
        torch.testing.assert_close(mine.state[a]["momentum_buffer"], its.state[b]["momentum_buffer"])


def test_where_bfloat16_is_fast_it_is_pytorchs(monkeypatch):
    monkeypatch.setattr(muon, "fast_bfloat16", lambda device: True)
    assert all(torch.equal(a, b) for a, b in zip(trained(muon.Muon)[0], trained(torch.optim.Muon)[0], strict=True))


def test_directions_are_nearly_orthogonal():
    group = {"ns_coefficients": (3.4445, -4.7750, 2.0315), "ns_steps": 5, "eps": 1e-7}
    values = torch.linalg.svdvals(
        muon.orthogonalised(torch.randn(20, 8, generator=torch.Generator().manual_seed(1)), group)
    )
    assert values.min() > 0.5 and values.max() < 1.3
