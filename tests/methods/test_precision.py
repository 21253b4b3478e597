"""Float32 inside, the caller's settings outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import backends

from methods.precision import PRODUCTS, exactly

CPU = torch.device("cpu")


def settings() -> list[object]:
    """What PyTorch says of its products, as plainly as it can be read."""
    found: list[object] = [place.fp32_precision for place in (*PRODUCTS, backends.cudnn.rnn, backends)]
    for read in (torch.get_float32_matmul_precision, lambda: backends.cudnn.allow_tf32):
        try:
            found.append(read())
        except RuntimeError:
            found.append("contradictory")
    return found


@pytest.fixture(
    params=[
        lambda: None,
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: setattr(backends.cudnn, "allow_tf32", False),
        lambda: setattr(backends.cuda.matmul, "allow_tf32", True),
        lambda: setattr(backends.cuda.matmul, "fp32_precision", "tf32"),
        lambda: setattr(backends.mkldnn.matmul, "fp32_precision", "bf16"),
        lambda: setattr(backends.cudnn.conv, "fp32_precision", "ieee"),
        lambda: setattr(backends, "fp32_precision", "tf32"),
    ],
    ids=["plain", "high", "medium", "no-tf32", "tf32", "cuda", "mkldnn", "cudnn", "all"],
)
def coarse(request) -> Iterator[list[object]]:
    """One of the ways in which a caller may choose precision; what is then set."""
    places = (backends, backends.cudnn, backends.mkldnn, *PRODUCTS, backends.cudnn.rnn)
    before = [place.fp32_precision for place in places]
    products, convolutions = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    request.param()
    yield settings()
    torch.set_float32_matmul_precision(products)
    for place, precision in zip(places, before, strict=True):
        place.fp32_precision = precision
    backends.cudnn.allow_tf32 = convolutions
    for place, precision in zip(places, before, strict=True):
        place.fp32_precision = precision


def test_every_product_is_whole_within_and_as_before_after(coarse):
    x = torch.randn(64, 64)
    truth = x.double() @ x.double()
    with torch.autocast("cpu", torch.bfloat16):
        with exactly(CPU):
            assert (x @ x).dtype == torch.float32
            assert {place.fp32_precision for place in PRODUCTS} == {"ieee"}
            assert torch.get_float32_matmul_precision() == "highest"  # readable, so that others may look
            torch.testing.assert_close(x @ x, truth.float(), rtol=0, atol=1e-4)
        assert (x @ x).dtype == torch.bfloat16
    assert settings() == coarse


def test_one_within_another_leaves_it_whole(coarse):
    with exactly(CPU):
        with exactly(CPU):
            pass
        assert {place.fp32_precision for place in PRODUCTS} == {"ieee"}
    assert settings() == coarse


def test_an_error_within_changes_nothing_after(coarse):
    with pytest.raises(ValueError), exactly(CPU):
        raise ValueError
    assert settings() == coarse
