"""Devices and digests of weights."""

import json
import shutil

import torch

from bench.runtime import answering_in, device_name, device_of, digest, load_model
from bench.train.folders import model_of_stage
from methods.registry import method_class


def test_a_digest_names_weights_and_configuration(small):
    folder = model_of_stage(small, "himtok")
    first = digest(folder)
    assert len(first) == 16
    method = method_class("himtok").from_pretrained(folder)
    shutil.rmtree(folder)
    method.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert digest(folder) == first  # however the weights are cut into files
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"decode": "hard"}))
    assert digest(folder) != first


def test_a_model_is_loaded_in_its_precision_and_nothing_is_converted_then(small):
    folder = model_of_stage(small, "himtok")
    whole, half = (load_model("himtok", folder, precision) for precision in ("float32", "bfloat16"))
    assert {p.dtype for p in half.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half.mask_tokenizer.parameters()} == {torch.float32}
    for method, precision, converts in (
        (whole, torch.float32, 0),
        (whole, torch.bfloat16, 1),
        (half, torch.bfloat16, 0),
    ):
        with answering_in(method, precision):
            assert torch.is_autocast_enabled(method.device.type) == bool(converts)


def test_the_device_is_named():
    assert device_of("cpu") == torch.device("cpu")
    assert device_name(torch.device("cpu")).endswith("1 threads")
