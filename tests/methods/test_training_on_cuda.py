"""Forward and backward passes of every stage on a fake CUDA device: every operand is there, every gradient arrives."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bench.runtime import to_device
from methods.base import Example
from methods.internvl import model as models
from methods.internvl.config import named_size
from methods.registry import method_class, resolve, stage_spec
from tests.conftest import HIMTOK_SIZES
from tests.fake_cuda import AVAILABLE, FakeCuda, MixedDevices, move

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs a C++ compiler, or a GPU")
STAGES = {
    "pretrain": ("boxes", ("box", "box")),
    "himtok tokenizer": ("himtok", ("segment", "segment")),
    "align": ("himtok", ("segment", "segment_box", "box")),
    "tune": ("himtok", ("segment", "segment_box", "box")),
    "argenseg tokenizer": ("argenseg", ("segment", "segment")),
    "joint": ("argenseg", ("segment", "box")),
}
PRECISIONS = [torch.bfloat16, pytest.param(torch.float32, marks=pytest.mark.slow)]
# with one layer of each stack, because all its layers are alike
SHALLOW = {
    "himtok": {"encoder_layers": 1, "decoder_layers": 1, "pixel_blocks": 1},
    "argenseg": {"blocks": 1},
}


def example() -> Example:
    mask = np.zeros((48, 64), bool)
    mask[10:30, 20:40] = True
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    facts = {"answer": "red", "semantic": mask.astype(np.uint8)}
    return Example(image, ("the red square",), mask, (20.0, 10.0, 40.0, 30.0), ref_id=1, **facts)


def stepped(method, stage: str, tasks: tuple[str, ...], precision: torch.dtype, pack: bool = False) -> FakeCuda:
    """One forward and backward pass of a model, or of what builds one on the fake device."""
    with FakeCuda().on() as device:
        method = method if isinstance(method, torch.nn.Module) else method()
        method.enter_stage(stage.split()[-1])
        move(method.train())
        processor, rng = method.processor, np.random.default_rng(0)
        batch = processor.collate([processor.prepare(example(), task, rng) for task in tasks], pack)
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == torch.bfloat16):
            losses = method.loss(to_device(batch, torch.device("cuda")))
        total = sum(loss for name, loss in losses.items() if not name.startswith("_"))
        assert total.dtype == torch.float32 and total.device.type == "cuda"
        total.backward()
        trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
        assert {p.grad.device.type for p in trained.values() if p.grad is not None} == {"cuda"}
        idle = [name for name, p in trained.items() if p.grad is None]
        assert not idle or stage == "joint", idle  # a mask in the answer has no use for some rows of ARGenSeg's
    return device


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_of_a_tiny_model(build, stage, precision):
    name, tasks = STAGES[stage]
    parts = {"mask_tokenizer_config": "short"} if name == "argenseg" else {}
    parts |= {"backbone": None} if "tokenizer" in stage else {}
    stepped(build(name, **parts), stage, tasks, precision)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tune", "joint"])
def test_packed_samples(build, stage):
    name, tasks = STAGES[stage]
    parts = {"mask_tokenizer_config": "short"} if name == "argenseg" else {}
    stepped(build(name, **parts), stage, tasks, torch.bfloat16, pack=True)


def test_a_planted_fault_is_found(build, monkeypatch):
    method = build("himtok", mask_tokenizer_config=HIMTOK_SIZES)
    plain = method.token_losses
    monkeypatch.setattr(method, "token_losses", lambda hidden, labels: plain(hidden + torch.zeros(1, 1, 1), labels))
    with pytest.raises(MixedDevices):
        stepped(method, "tune", ("segment",), torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize(
    ("stage", "size"), [(stage, "1b") for stage in STAGES] + [(stage, "8b") for stage in ("align", "tune", "joint")]
)
def test_a_step_of_a_real_model(stage, size, precision, monkeypatch):
    name, tasks = STAGES[stage]
    shallow = replace(named_size(size), text_layers=1, vision_layers=1)
    monkeypatch.setattr(models, "named_size", lambda name: shallow)

    def build():
        sizes = {"mask_tokenizer_config": SHALLOW.get(name, {})}
        if "tokenizer" in stage:
            return resolve(stage_spec(name, "tokenizer").trainee).build(sizes, lambda: ())
        if stage == "pretrain":
            return method_class(name).build({"size": "nano", "vocabulary": 600}, lambda: ("the red square",))
        return method_class(name).build({"backbone": f"random:{size}", "texts": ["the red square"]} | sizes, lambda: ())

    stepped(build, stage, tasks, precision)
