"""Float32 inside, the caller's settings outside."""

from __future__ import annotations

import pytest
import torch

from methods.precision import exactly

CPU = torch.device("cpu")


def test_autocast_and_tf32_are_off_within_and_back_after(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    x = torch.randn(3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        with exactly(CPU):
            assert (x @ x).dtype == torch.float32 and not torch.backends.cudnn.allow_tf32
        assert (x @ x).dtype == torch.bfloat16
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("before", [True, False])
def test_an_error_within_changes_nothing_after(monkeypatch, before):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    with pytest.raises(ValueError), exactly(CPU):
        raise ValueError
    assert torch.backends.cudnn.allow_tf32 is before
