"""How fast the shipped models answer, each beside its peer in the same run: `make bench`, on one thread.

The peer of answers in a batch is each request by itself. Those of the fast backend are the way of the official codes,
and that way with what it wastes left out: the head is taken of the mask tokens' rows alone, none of the prompt, and one
image is decoded. That of weights in bfloat16 are those that autocast converts at every step, and that of Muon is plain
AdamW. In an ordinary test run each is called once, untimed.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.cache_utils import DynamicCache

from bench.assets import asset
from bench.refmoji.build import build as build_refmoji
from bench.train.muon import Muon
from methods.base import Decoding, Request
from methods.enlarge import as_released
from methods.internvl.backbone import Backbone
from methods.internvl.config import named_size
from methods.internvl.generation.decoder import OfficialDecoder
from methods.internvl.generation.engine import DECODERS
from methods.internvl.generation.kv_cache import Stepper
from methods.registry import method_class

REQUESTS = 64  # of sixteen images
ROUNDS = dict(rounds=3, iterations=1, warmup_rounds=1)
BATCH_ROUNDS = dict(rounds=2, iterations=1)


@pytest.fixture(scope="module", params=["himtok", "argenseg"])
def method(request):
    """A shipped model of profile nano."""
    return method_class(request.param).from_pretrained(asset("results", "nano", "checkpoints", request.param))


@pytest.fixture(scope="module")
def requests():
    rng = np.random.default_rng(0)
    draws = rng.integers(0, 256, (REQUESTS // 4, 48, 64, 3), np.uint8)
    images = [Image.fromarray(pixels).resize((640, 480)) for pixels in draws]
    phrases = ("the red car", "the small one on the left", "a dog", "the second cup from the right")
    return [Request(image, (phrase,), ("mask", "box")) for image in images for phrase in phrases]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 16, REQUESTS])
def test_requests_in_batches(benchmark, method, requests, size):
    groups = [requests[i : i + size] for i in range(0, len(requests), size)]
    found = benchmark.pedantic(lambda: [p for group in groups for p in method.segment(group)], **BATCH_ROUNDS)
    assert len(found) == REQUESTS


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["fast", "official"])
def test_one_mask(benchmark, method, requests, backend):
    request = Request(requests[0].image, requests[0].expressions)
    found = benchmark.pedantic(lambda: method.segment([request], Decoding(backend=backend)), **ROUNDS)
    assert len(found[0].token_ids) == method.mask_tokenizer.length


class Saving(OfficialDecoder):
    """The official way without the logits that nobody looks at."""

    def _begin(self, embeddings, positions, prefix):
        assert prefix is None
        self.cache = DynamicCache(config=self.backbone.language_model.config)
        return self.backbone.run(embeddings, self._mask(), positions, self.cache)

    def head(self, hidden, low, high):
        return self.backbone.head(hidden, low, high).float()


@pytest.mark.slow
def test_one_mask_in_the_official_way_with_its_savings(benchmark, method, requests, monkeypatch):
    monkeypatch.setitem(DECODERS, "fast", Saving)
    request = Request(requests[0].image, requests[0].expressions)
    with as_released():
        found = benchmark.pedantic(lambda: method.segment([request], Decoding(answer_text="generated")), **ROUNDS)
    monkeypatch.undo()
    assert found[0].token_ids == method.segment([request])[0].token_ids


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_a_step_in_bfloat16(benchmark, weights):
    """One token through a language model of eight layers, 512 wide; of float32 weights under autocast."""
    torch.manual_seed(0)
    size = replace(named_size("mid"), vision_layers=1)
    backbone = Backbone(size, 1000, 1).eval().to(getattr(torch, weights))
    stepper, x = Stepper(backbone.language_model), torch.randn(1, 1, backbone.width, dtype=getattr(torch, weights))
    position = torch.zeros(1, 1, dtype=torch.long)

    def step():
        stepper.length = 0
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=weights == "float32"):
            return stepper.run(x, position, None)

    assert benchmark(step).shape == x.shape


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
