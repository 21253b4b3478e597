"""Devices and digests of weights."""

import json
import shutil

import torch

from bench.runtime import device_name, device_of, digest
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


def test_the_device_is_named():
    assert device_of("cpu") == torch.device("cpu")
    assert device_name(torch.device("cpu")).endswith("1 threads")
