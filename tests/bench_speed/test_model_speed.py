"""How fast the shipped models answer, each beside its peer in the same run: `make bench`, on one thread.

The peer of answers in a batch is each request by itself, that of the fast backend the way of the official codes, and
that of Muon plain AdamW. In an ordinary test run each is called once, untimed.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from bench.assets import asset
from bench.refmoji.build import build as build_refmoji
from bench.train.muon import Muon
from methods.base import Decoding, Request
from methods.registry import method_class

REQUESTS = 8  # about two images
ROUNDS = dict(rounds=3, iterations=1, warmup_rounds=1)


@pytest.fixture(scope="module", params=["himtok", "argenseg"])
def method(request):
    """A shipped model of profile nano."""
    return method_class(request.param).from_pretrained(asset("results", "nano", "checkpoints", request.param))


@pytest.fixture(scope="module")
def requests():
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).resize((640, 480)) for _ in range(2)]
    phrases = ("the red car", "the small one on the left", "a dog", "the second cup from the right")
    return [Request(image, (phrase,), ("mask", "box")) for image in images for phrase in phrases][:REQUESTS]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, REQUESTS])
def test_requests_in_batches(benchmark, method, requests, size):
    groups = [requests[i : i + size] for i in range(0, len(requests), size)]
    found = benchmark.pedantic(lambda: [p for group in groups for p in method.segment(group)], **ROUNDS)
    assert len(found) == REQUESTS


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["fast", "official"])
def test_one_mask(benchmark, method, requests, backend):
    request = Request(requests[0].image, requests[0].expressions)
    found = benchmark.pedantic(lambda: method.segment([request], Decoding(backend=backend)), **ROUNDS)
    assert len(found[0].token_ids) == method.mask_tokenizer.length


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_step_of_an_optimiser(benchmark, kind):
    """On the linear layers of a language model of eight layers, 256 wide."""
    torch.manual_seed(0)
    shapes = [(256, 256)] * 4 + [(768, 256)] * 2 + [(256, 768)]
    weights = [torch.nn.Parameter(torch.randn(shape) / 16) for _ in range(8) for shape in shapes]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimiser = Muon(weights, lr=1e-3) if kind == "muon" else torch.optim.AdamW(weights, lr=1e-3)
    before = weights[0].clone()
    benchmark(optimiser.step)
    assert not torch.equal(weights[0], before)


def test_embedded_scenes(benchmark, tmp_path_factory):
    """Six scenes of level easy, composed, drawn and written."""

    def made():
        root = tmp_path_factory.mktemp("refmoji") / "easy"
        build_refmoji("easy", root, splits=[], train_scenes=6, progress=False)
        return root

    assert len(list(benchmark.pedantic(made, **ROUNDS).rglob("*.jpg"))) == 6
