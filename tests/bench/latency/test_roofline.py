"""What a stage has to do at least, counted from real requests, and floors from it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from bench.latency.roofline import Counter, Machine, Work, cost_per_million, count, measure_machine
from methods.base import Decoding, Request

ASKED = Request(Image.fromarray(np.full((9, 9, 3), 99, np.uint8)), ("the car",))


def counted(work, *weights, grad_mode=torch.inference_mode):
    counter = Counter({w.untyped_storage().data_ptr() for w in weights})
    with grad_mode(), counter, counter.stage("it"):
        work()
    return counter.work["it"]


def test_products_by_hand():
    x, weight, bias = torch.ones(3, 5), torch.ones(7, 5), torch.ones(7)
    found = counted(lambda: F.linear(x, weight, bias), weight, bias)
    assert (found.flops, found.bytes) == (2 * 3 * 5 * 7, 4 * (35 + 7))
    sliced = counted(lambda: F.linear(x, weight[2:4]), weight)
    assert (sliced.flops, sliced.bytes) == (2 * 3 * 5 * 2, 4 * 10)


@pytest.mark.parametrize(("grad_mode", "conversions"), [(torch.no_grad, 1), (torch.inference_mode, 3)])
def test_a_weight_that_autocast_converts_is_read_in_both_precisions(grad_mode, conversions):
    """Once or, where autocast keeps no copies, for each product. What takes a copy's place in memory is no weight."""
    x, weight = torch.ones(64, 64), torch.ones(64, 64, requires_grad=True)

    def work():
        with torch.autocast("cpu", torch.bfloat16):
            for _ in range(3):
                F.linear(x, weight)
            y = x.bfloat16()
            for _ in range(3):
                y = y @ x.bfloat16()

    found = counted(work, weight, grad_mode=grad_mode)
    assert (found.flops, found.bytes) == (6 * 2 * 64**3, (3 * 2 + conversions * (4 + 2)) * 64 * 64)


def test_convolutions_by_hand():
    image, kernel = torch.ones(1, 2, 6, 6), torch.ones(4, 2, 3, 3).bfloat16().float()
    found = counted(lambda: F.conv2d(image, kernel, padding=1), kernel)
    assert (found.flops, found.bytes) == (2 * 36 * 4 * 2 * 9, 4 * kernel.numel())


@pytest.mark.parametrize("mask", [False, True])
def test_attention_by_hand(mask):
    q, k, v = torch.ones(1, 4, 3, 8), torch.ones(1, 4, 11, 8), torch.ones(1, 4, 11, 8)
    seen = torch.ones(3, 11, dtype=torch.bool) if mask else None
    found = counted(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=seen))
    assert (found.flops, found.bytes) == (4 * 4 * 3 * 8 * 11, 4 * (k.numel() + v.numel()))


def test_nothing_is_counted_outside_a_stage():
    counter = Counter(set())
    with torch.inference_mode(), counter:
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert not counter.work


def test_floors():
    machine = Machine(bandwidth=100, rate=10)
    assert machine.floor(Work(flops=50, bytes=100)) == (5, "arithmetic")
    assert machine.floor(Work(flops=1, bytes=100)) == (1, "bandwidth")
    assert cost_per_million(0.36, 3.0) == pytest.approx(300)


def test_the_machine_is_measured():
    machine = measure_machine(torch.device("cpu"), torch.float32)
    assert 1e7 < machine.bandwidth < 1e13
    assert 1e8 < machine.rate < 1e16


FORCED = Decoding(answer_text="forced")


def test_a_request_reads_every_layer_once_a_step(writer):
    work = count(writer, ASKED, FORCED)
    layers = 4 * sum(p.numel() for n, p in writer.backbone.language_model.layers.named_parameters() if "norm" not in n)
    head = 4 * writer.mask_tokenizer.size * writer.backbone.width
    first = work["step 01"]
    assert layers + head < first.bytes < layers + head + 2e5  # and the keys and values so far
    assert work["prefill"].bytes >= layers
    steps = [work[name] for name in sorted(work) if name.startswith("step ")]
    assert sum(step.bytes for step in steps) < work["mask"].bytes
    assert all(a.flops <= b.flops for a, b in zip(steps[:-1], steps[1:-1], strict=False))  # more keys, larger scales
    assert {"vision", "prefill", "mask", "mask_tokenizer"} <= work.keys()


def test_in_bfloat16_a_request_reads_half(writer, tmp_path):
    whole = count(writer, ASKED, FORCED)
    with torch.autocast("cpu", torch.bfloat16):
        converted = count(writer, ASKED, FORCED)
    writer.save_pretrained(tmp_path / "model")
    half = count(type(writer).from_pretrained(tmp_path / "model", dtype="bfloat16"), ASKED, FORCED)
    for stage in ("vision", "prefill", "mask"):
        assert 0.45 < half[stage].bytes / whole[stage].bytes < 0.75, stage  # not of what stays in float32
        assert converted[stage].bytes > 1.4 * whole[stage].bytes, stage


def test_the_reference_path_does_more(writer):
    fast = count(writer, ASKED, FORCED)
    slow = count(writer, ASKED, Decoding("official", "forced"))
    assert slow["mask"].bytes > fast["mask"].bytes
    assert slow["prefill"].flops > fast["prefill"].flops
    ratio = slow["mask_tokenizer"].flops / fast["mask_tokenizer"].flops
    drawn = 1 if writer.name == "himtok" else 4  # an image for each of four scales
    assert drawn < ratio < 1.6 * drawn  # and each with more multiplications


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_integer_weights_are_a_byte_each(writer, dtype):
    """Of one layer's product; in bfloat16 a single row takes the kernel that reads integers."""
    writer.quantise()
    layer = writer.backbone.language_model.layers[0].mlp.up_proj.to(dtype)
    found = counted(lambda: layer(torch.ones(1, 64, dtype=dtype)), layer.weight)
    assert (found.flops, found.bytes) == (2 * 64 * 128, 64 * 128)


def test_the_work_of_graphs_is_that_of_the_fast_path(writer):
    fast = count(writer, ASKED, FORCED)
    assert count(writer, ASKED, Decoding("cuda_graphs", "forced")) == fast
