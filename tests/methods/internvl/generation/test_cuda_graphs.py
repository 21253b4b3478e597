"""Passes of fixed shapes give the answers of the fast path, and nothing in them depends on a value that a recording
would freeze.

Without a GPU a recording is played by a trace of the pass: like a CUDA graph it repeats the same operations on the same
tensors and shapes, with every number of Python's as it was when the trace was made.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.fx.experimental.proxy_tensor import make_fx

from methods.base import Decoding, Request
from methods.internvl.generation import cuda_graphs as graphs
from methods.internvl.generation.cuda_graphs import BLOCK, MOST_STEPPERS, FixedStepper, Latest, Recording, kept_stepper
from methods.internvl.generation.kv_cache import SPARE, Stepper, room

FAST, GRAPHS = Decoding("fast"), Decoding("cuda_graphs")
WORDS = ("the car", "a red one on the left", "it", "the second square from the left, behind the blue one")
FORMS = ({"order": "token"}, {"intra_scale": "bidirectional"}, {"head": "hidden"}, {"masks": 2})
CLOSE = dict(rtol=0, atol=1e-4)


def asked(count: int) -> list[Request]:
    draws = np.random.default_rng(0).integers(0, 255, (count, 9, 7, 3), np.uint8)
    return [Request(Image.fromarray(pixels), (words,)) for pixels, words in zip(draws, WORDS, strict=False)]


def answers(method, decoding, requests):
    return method.segment(requests, decoding)


def same(found, wanted) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one.text, one.token_ids, one.failure) == (other.text, other.token_ids, other.failure)
        assert one.steps == other.steps
        assert np.array_equal(one.mask, other.mask)


class Trace:
    """What stands in for a Recording on a CPU."""

    made = 0

    def __init__(self, work, inputs):
        self.inputs = inputs.clone()
        self.graph = make_fx(work)(self.inputs)
        Trace.made += 1

    def __call__(self, inputs):
        self.inputs.copy_(inputs)
        return self.graph(self.inputs)


@pytest.fixture
def traced(monkeypatch):
    monkeypatch.setattr(graphs, "recordable", lambda device: True)
    monkeypatch.setattr(graphs, "Recording", Trace)
    monkeypatch.setattr(Trace, "made", 0)


def test_fixed_shapes_give_the_same_answers(writer, writing):
    writing(writer)
    requests = asked(4)
    wanted = [answers(writer, FAST, [request])[0] for request in requests]
    same([answers(writer, GRAPHS, [request])[0] for request in requests], wanted)
    assert len({answer.token_ids for answer in wanted}) == len(wanted)
    written = replace(GRAPHS, answer_text="generated")  # the block begins after words that were fed one by one
    assert answers(writer, written, requests[:1])[0].token_ids == wanted[0].token_ids


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_of_argenseg(build, writing, form):
    method = writing(build("argenseg", mask_tokenizer_config="short", variant=form))
    same(answers(method, GRAPHS, asked(1)), answers(method, FAST, asked(1)))


def test_a_recording_serves_requests_of_other_lengths(writer, writing, traced):
    """Recorded with the first request, replayed with prompts of other lengths, in any order."""
    writing(writer)
    requests = asked(4)
    wanted = [answers(writer, FAST, [request])[0] for request in requests]
    for number in (0, 1, 3, 2, 0):
        same(answers(writer, GRAPHS, [requests[number]]), [wanted[number]])
    assert Trace.made == (1 if writer.name == "himtok" else 3)  # a graph for each shape of a step after the first


def test_rows_alike_are_recorded_and_others_are_not(writer, writing, traced):
    writing(writer)
    alike = [replace(request, expressions=("the car",)) for request in asked(3)]
    same(answers(writer, GRAPHS, alike), answers(writer, FAST, alike))
    made = Trace.made
    assert made
    padded = asked(3)
    same(answers(writer, GRAPHS, padded), answers(writer, FAST, padded))
    shared = [replace(request, image=padded[0].image) for request in padded]
    same(answers(writer, GRAPHS, shared), answers(writer, FAST, shared))
    assert Trace.made == made


def test_other_weights_are_recorded_anew(himtok, writing, traced):
    writing(himtok)
    answers(himtok, GRAPHS, asked(1))
    with torch.no_grad():
        for parameter in himtok.backbone.language_model.parameters():
            parameter.data = parameter.data * (1.5 if parameter.ndim > 1 else 1)
    same(answers(himtok, GRAPHS, asked(1)), answers(himtok, FAST, asked(1)))
    assert Trace.made == 2


@torch.inference_mode()
def test_keys_that_outgrow_their_room_are_recorded_anew(build, traced):
    backbone = build("boxes").backbone
    x = torch.randn(1, BLOCK + 2 * SPARE + 290, backbone.width, generator=torch.Generator().manual_seed(0))
    plain, fixed = Stepper(backbone.language_model), FixedStepper(backbone.language_model)
    positions = torch.arange(x.shape[1])[None]
    for stepper in (plain, fixed):
        stepper.run(x[:, :10], positions[:, :10], None, causal=True)
    assert fixed.keys[0].shape[2] == room(10) + BLOCK
    for start in range(10, x.shape[1], 100):
        part = slice(start, start + 100)
        count = x[:, part].shape[1]
        seen = torch.ones(count, start + count, dtype=torch.bool).tril(start)[None, None]
        wanted = plain.run(x[:, part], positions[:, part], seen)
        torch.testing.assert_close(fixed.logits(x[:, part], False, (0, 1), lambda hidden: hidden), wanted, **CLOSE)
    assert Trace.made == 7  # 100 tokens up to each multiple of SPARE, and 60 in the last step
    assert fixed.length == x.shape[1] and fixed.keys[0].shape[2] == room(1310)


@torch.inference_mode()
def test_a_stepper_is_kept_by_batch_and_by_length(build):
    backbone = build("boxes").backbone
    first = kept_stepper(backbone, torch.zeros(1, 40, 8))
    first.length = 7
    assert kept_stepper(backbone, torch.zeros(1, 90, 8)) is first and first.length == 0
    assert kept_stepper(backbone, torch.zeros(1, 290, 8)) is not first
    assert kept_stepper(backbone, torch.zeros(2, 40, 8)) is not first


@torch.inference_mode()
def test_only_the_latest_keys_are_kept(build):
    backbone = build("boxes").backbone
    first = kept_stepper(backbone, torch.zeros(1, 40, 8))
    for rows in range(2, MOST_STEPPERS + 1):
        kept_stepper(backbone, torch.zeros(rows, 40, 8))
        assert kept_stepper(backbone, torch.zeros(1, 40, 8)) is first
    kept_stepper(backbone, torch.zeros(MOST_STEPPERS + 1, 40, 8))
    assert kept_stepper(backbone, torch.zeros(1, 40, 8)) is first
    second = kept_stepper(backbone, torch.zeros(2, 40, 8))  # was the oldest, and is made again
    assert second.length == 0 and not second.keys


def test_a_bounded_store_forgets_what_was_used_longest_ago():
    store, made = Latest(2), []
    for key in ("a", "b", "a", "c", "a", "b"):
        assert store.get(key, lambda key=key: made.append(key) or key) == key
    assert made == ["a", "b", "c", "b"] and list(store) == ["a", "b"]


def test_a_recording_that_fails_is_said_and_done_without(himtok, writing, monkeypatch):
    writing(himtok)
    tried = []

    def fails(work, inputs):
        tried.append(inputs.shape)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "recordable", lambda device: True)
    monkeypatch.setattr(graphs, "Recording", fails)
    with pytest.warns(UserWarning, match="without CUDA graphs.*stream is capturing"):
        found = answers(himtok, GRAPHS, asked(1))
    same(found, answers(himtok, FAST, asked(1)))
    assert len(tried) == 1


def test_what_is_not_recorded_is_said(himtok, writing):
    writing(himtok)
    with pytest.warns(UserWarning, match="rows are of unequal length"):
        answers(himtok, GRAPHS, asked(3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_on_a_gpu_graphs_give_the_answers_of_the_fast_path(writer, writing, precision, monkeypatch):
    """In bfloat16 other kernels may decide a tie otherwise, so there the answers only have to be as long."""
    writing(writer).to("cuda")
    replayed = []
    call = Recording.__call__
    monkeypatch.setattr(Recording, "__call__", lambda self, x: (replayed.append(x.shape), call(self, x))[1])
    with torch.autocast("cuda", precision, enabled=precision != torch.float32):
        for requests in (asked(1), asked(4)[1:2], asked(4)[3:]):
            wanted, found = (answers(writer, way, requests) for way in (FAST, GRAPHS))
            if precision == torch.float32:
                same(found, wanted)
            assert [len(answer.token_ids) for answer in found] == [len(answer.token_ids) for answer in wanted]
    assert len(replayed) == 3 * (31 if writer.name == "himtok" else 3)
