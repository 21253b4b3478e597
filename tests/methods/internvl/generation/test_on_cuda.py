"""Answers on a fake CUDA device: the ids of a CPU, no wait of the host within a step, steps that graphs can replay.

Tiny models compute for real. At the sizes of real models only shapes, types and devices are followed, with one layer of
each stack, because all its layers are alike.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from methods.base import Decoding, Request
from methods.internvl import model as models
from methods.internvl.config import named_size
from methods.internvl.generation.cuda_graphs import FixedStepper
from methods.internvl.generation.kv_cache import SPARE
from methods.registry import method_class
from tests.fake_cuda import AVAILABLE, FakeCuda, HostRead, MixedDevices, move

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs a C++ compiler, or a GPU")
BACKENDS = ("fast", "cuda_graphs")
FORMS = ({"order": "token"}, {"intra_scale": "bidirectional"}, {"head": "hidden"})
FEW = {"himtok": 3, "argenseg": None}  # mask tokens that are written, None for all
PLACES = {"decoder.py", "mask_tokenizer.py", "engine.py", "masks.py", "model.py"}  # where an answer may wait


def asked(count: int, words: str = "the car") -> list[Request]:
    draws = np.random.default_rng(0).integers(0, 255, (count, 9, 7, 3), np.uint8)
    return [Request(Image.fromarray(pixels), (f"{words}{' left' * i}",)) for i, pixels in enumerate(draws)]


def on_device(method, requests, backend, **decoding):
    """(predictions, the device)."""
    with FakeCuda(values=True).on() as device:
        move(method)
        found = method.segment(requests, Decoding(backend, timing="steps", watch=device.stage, **decoding))
    return found, device


def same(found, wanted) -> None:
    assert [f.token_ids for f in found] == [w.token_ids for w in wanted]
    assert [(f.text, f.failure) for f in found] == [(w.text, w.failure) for w in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one.mask, other.mask)


@pytest.mark.parametrize(
    ("backend", "count"),
    [
        ("cuda_graphs", 1),
        pytest.param("cuda_graphs", 2, marks=pytest.mark.slow),
        pytest.param("fast", 1, marks=pytest.mark.slow),
        pytest.param("fast", 2, marks=pytest.mark.slow),
    ],
)
def test_ids_are_those_of_a_cpu(writer, writing, backend, count):
    """Rows of unequal length are padded, and are not recorded."""
    writing(writer)
    requests = [replace(each, tokens=FEW[writer.name]) for each in asked(count)]
    wanted = writer.segment(requests, Decoding("fast"))
    found, device = on_device(writer, requests, backend)
    same(found, wanted)
    assert any(wanted[0].token_ids)
    assert {place.partition(":")[0].rpartition("/")[2] for _, place in device.reads} <= PLACES
    assert bool(device.recorded) == (backend == "cuda_graphs" and count == 1)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_of_argenseg(build, writing, form):
    method = writing(build("argenseg", mask_tokenizer_config="short", variant=form))
    wanted = method.segment(asked(1), Decoding("fast"))
    same(on_device(method, asked(1), "cuda_graphs")[0], wanted)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["hard", "expected"])
def test_every_rule(writer, writing, rule):
    writing(writer)
    request = [replace(asked(1)[0], tokens=FEW[writer.name])]
    wanted = writer.segment(request, Decoding("fast", rule=rule))
    same(on_device(writer, request, "cuda_graphs", rule=rule)[0], wanted)


@pytest.mark.slow
def test_prompts_of_other_lengths_replay_the_same_steps(himtok, writing):
    """In any order, within the same room for keys."""
    writing(himtok)
    requests = [replace(each, tokens=3) for each in asked(3)]
    wanted = [himtok.segment([each], Decoding("fast"))[0] for each in requests]
    with FakeCuda(values=True).on() as device:
        move(himtok)
        decoding = Decoding("cuda_graphs", timing="steps", watch=device.stage)
        found = [himtok.segment([requests[i]], decoding)[0] for i in (0, 2, 1)]
    same(found, [wanted[i] for i in (0, 2, 1)])
    assert device.recorded == 1


FAULTS = {
    HostRead: lambda logits: logits.sum().item(),
    MixedDevices: lambda logits: logits + torch.zeros(1, 1, 1),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_planted_fault_is_found(writer, writing, monkeypatch, kind):
    writing(writer)
    schedule = type(writer.block(None, Decoding()).schedule())
    plain = schedule.next
    monkeypatch.setattr(schedule, "next", lambda self, logits: (FAULTS[kind](logits), plain(self, logits))[1])
    with pytest.raises(kind):
        on_device(writer, asked(1), "fast")


def test_a_planted_allocation_of_another_size_is_found(himtok, writing, monkeypatch):
    """Attention over the keys so far, as the fast backend has it, would be another piece of work at each step."""
    writing(himtok)
    plain = FixedStepper._remember

    def grown(self, store, number, fresh):
        whole = plain(self, store, number, fresh)
        return whole if self.places is None else whole + whole.new_zeros(1, 1, 1, self.length).sum()

    monkeypatch.setattr(FixedStepper, "_remember", grown)
    with pytest.raises(AssertionError, match="was recorded as"):
        on_device(himtok, [replace(asked(1)[0], tokens=3)], "cuda_graphs")


@torch.inference_mode()
def test_a_step_is_one_graph(build):
    """torch.compile breaks it nowhere; places are read on the device, so that later steps need no other graph."""
    backbone = build("boxes").backbone
    stepper = FixedStepper(backbone.language_model)
    x = torch.randn(1, 12, backbone.width, generator=torch.Generator().manual_seed(0))
    stepper.run(x[:, :8], torch.arange(8)[None], None, causal=True)
    stepper.filled = torch.tensor(8)

    def work(inputs):
        return stepper._pass(inputs, False, SPARE, lambda hidden: backbone.head(hidden, 10, 20))

    step = torch.compile(work, fullgraph=True, backend="eager")
    found = [step(x[:, 8:9])]
    stepper.filled.fill_(9)
    found.append(step(x[:, 9:10]))
    for number, logits in zip((8, 9), found, strict=True):
        stepper.filled.fill_(number)
        torch.testing.assert_close(logits, work(x[:, number : number + 1]))


@pytest.mark.slow
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", ["1b", "8b"])
@pytest.mark.parametrize("name", ["himtok", "argenseg"])
def test_shapes_of_real_models(name, size, precision, monkeypatch):
    """With everything in bfloat16 but the mask tokenizer's weights, as latency is measured, and under autocast."""
    shallow = replace(named_size(size), text_layers=1, vision_layers=1)
    monkeypatch.setattr(models, "named_size", lambda name: shallow)
    with FakeCuda().on() as device:
        parts = {"backbone": f"random:{size}", "texts": ["the car", "Sure, the segmentation result: "]}
        method = move(method_class(name).build(parts, lambda: ()).eval())
        request = replace(asked(1)[0], tokens=FEW[name])
        for backend in BACKENDS:
            decoding = Decoding(backend, "forced", timing="steps", watch=device.stage)
            with torch.autocast("cuda", precision, enabled=precision != torch.float32):
                found = method.segment([request], decoding)[0]
            assert len(found.token_ids) == (FEW[name] or 680)
    assert device.recorded == (1 if name == "himtok" else 9)
