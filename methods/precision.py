"""Float32 that no setting of the caller coarsens: where a rounding more or less would choose another id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Within, on that device, float32 stays float32: no autocast, and cuDNN's convolutions do not use TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
