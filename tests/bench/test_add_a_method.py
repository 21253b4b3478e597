"""docs/add_a_method.md: the rectangle writer goes through every command by one line in the registry."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.config import EvaluateConfig
from bench.evaluate.runner import predict_method
from bench.records import read_records
from methods.base import Request
from methods.files import read_lines
from methods.registry import METHODS, method_class

PROFILE = """
name: guide
data: {root: DATA, level: easy, train_scenes: 12}
train: {threads: 1, precision: float32, validate_samples: 2, log_every: 1}
stages:
  backbone: {method: boxes, stage: pretrain, steps: 2, images_per_step: 2, tasks: {box: 1},
             model: {size: tiny, vocabulary: 320}}
  mask: {method: rectangles, stage: joint, steps: 2, images_per_step: 2, tasks: {segment: 1},
         model: {backbone: "stage:backbone", side: 16}}
models: {rectangles: mask}
evaluate: {limit: 6, batch: 3, threads: 1}
latency: {warmup: 1, requests: 2, threads: 1}
ablation: {limit: 4, early_exit_limit: 1}
"""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.setitem(METHODS, "rectangles", "rectangles.spec:SPEC")


@pytest.fixture
def model(backbone_folder):
    return method_class("rectangles").build({"backbone": str(backbone_folder), "side": 16}, lambda: ())


def test_it_is_no_longer_than_the_guide_says():
    import rectangles.model
    import rectangles.spec

    lines = [line for module in (rectangles.model, rectangles.spec) for line in open(module.__file__) if line.strip()]
    assert len(lines) < 100


def test_masks_become_the_rectangles_around_them(model, examples):
    tokenizer = model.mask_tokenizer
    masks = np.zeros((3, 1, 16, 16), np.float32)
    masks[0, 0, 3:5, 7:12] = masks[1, 0, 15, 0] = 1
    ids = tokenizer.encode(torch.from_numpy(masks))
    assert ids.tolist() == [[7, 3, 12, 5], [0, 15, 1, 16], [0, 0, 0, 0]]
    assert np.array_equal(tokenizer.decode(ids).numpy(), masks[:, 0])


def test_answers_come_back_from_a_saved_model(model, examples, script, tmp_path):
    script(model, {"\n": model.start, model.end: "<|im_end|>"})
    model.save_pretrained(tmp_path / "model")
    requests = [Request(example.image, example.expressions[:1]) for example in examples]
    found = model.segment(requests)
    again = method_class("rectangles").from_pretrained(tmp_path / "model").segment(requests)
    assert [p.failure for p in found] == [None] * len(examples)
    assert all(len(p.token_ids) == 4 and p.mask.shape == e.mask.shape for p, e in zip(found, examples, strict=True))
    assert [p.token_ids for p in found] == [p.token_ids for p in again]


def test_it_is_asked_only_for_what_it_declares(model, squares, script, tmp_path):
    script(model, {"\n": model.start, model.end: "<|im_end|>"})
    dataset, config = squares(1), EvaluateConfig(protocols=["per_expression"], batch=4)
    dataset.wants = ("mask", "box")
    (path,) = predict_method(model, {"method": "rectangles"}, dataset, "val", config, tmp_path).values()
    assert {(row["failure"], row["box"]) for _, row in read_lines(path)} == {(None, None)}


@pytest.mark.slow
def test_every_command_serves_it(genseg, folder, easy_root, goldens):
    (folder / "guide.yaml").write_text(PROFILE.replace("DATA", str(easy_root)))
    for command in ("train", "eval", "ablation", "latency", "plan", "report"):
        result = genseg(command, "profile=guide.yaml")
        assert result.code == 0, (command, result.complaint)
    assert genseg("parity", goldens / "metrics").code == 0
    records = read_records(folder / "results/guide/records/scores-val.jsonl")
    metrics = {r.metric for r in records if r.method == "rectangles"}
    assert {"ciou", "giou"} <= metrics and not any(metric.startswith("acc@") for metric in metrics)
    assert "| rectangles" in (folder / "results/guide/tables/main.md").read_text()
