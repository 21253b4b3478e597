"""Adapters: each takes part in the loss, and the model has its own names again after they are merged."""

import pytest
import torch

from bench.config import StageConfig, TrainConfig
from bench.train.freezing import enter, merge_adapters
from methods.base import UserError
from methods.registry import method_class

pytest.importorskip("peft")


def adapted(method, **lora):
    lora = {"r": 2} | lora
    enter(method, StageConfig(method=method.name, stage=method.stages[-1], steps=1, lora=lora), TrainConfig())
    return method


def loss_of(method, example) -> torch.Tensor:
    import numpy as np

    samples = [method.prepare(example, "segment", np.random.default_rng(0))]
    return sum(v for k, v in method.loss(method.collate(samples)).items() if not k.startswith("_"))


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
        {"target_modules": ["q_proj"], "also": ["*lm_head.weight"]},
        {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
    ],
)
def test_every_adapter_learns_and_the_merged_model_loads(writer, lora, examples, tmp_path):
    names = writer.state_dict().keys()
    method = adapted(writer, **lora)
    loss_of(method, examples[0]).backward()
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    assert trained and not [name for name, p in trained.items() if p.grad is None]
    with torch.no_grad():
        for p in trained.values():
            p += 0.01
    before = float(loss_of(method, examples[0]).detach())
    merge_adapters(method)
    assert method.state_dict().keys() == names
    assert float(loss_of(method, examples[0]).detach()) == pytest.approx(before, rel=1e-3)
    method.save_pretrained(tmp_path)
    loaded = method_class(method.name).from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in method.state_dict().items())


@pytest.mark.parametrize(
    ("lora", "word"),
    [
        ({"target_modules": ["q_proj", "embedding_proj"]}, "embedding_proj"),
        ({"target_modules": ["attn"]}, "attn"),
        ({"target_modules": ["nothing"]}, "does not fit"),
        ({"target_modules": ["q_proj"], "r": -1}, "does not fit"),
        ({"target_modules": ["q_proj"], "flavour": 1}, "flavour"),
    ],
)
def test_adapters_that_would_learn_nothing_are_refused(himtok, lora, word):
    with pytest.raises(UserError, match=word):
        adapted(himtok, **lora)
