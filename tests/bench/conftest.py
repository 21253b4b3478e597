"""The command line, called in this process, a small profile, and small datasets that are built once per session."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.cli import main
from bench.config import load_profile
from bench.refmoji.build import build
from bench.train.folders import model_of_stage

PROFILE = """
name: small
data: {root: DATA, level: easy, train_scenes: 6}
train: {threads: 1, precision: float32, validate_samples: 2, log_every: 1}
stages:
  backbone: {method: boxes, stage: pretrain, steps: 2, images_per_step: 2, model: {size: tiny, vocabulary: 320},
             tasks: {box: 0.8, caption: 0.1, question: 0.1}}
  tokens: {method: himtok, stage: tokenizer, steps: 2, images_per_step: 2, tasks: {segment: 1.0},
           model: {mask_tokenizer_config: {resolution: 64, width: 64, encoder_layers: 1, decoder_layers: 1, heads: 4,
                           ffn_out: 32, codes: 64, pixel_base: 8, pixel_multipliers: [1, 1, 1, 1, 1], pixel_blocks: 1}}}
  himtok: {method: himtok, stage: align, steps: 2, images_per_step: 1, tasks: {segment_box: 1.0},
           model: {backbone: "stage:backbone", mask_tokenizer: "stage:tokens"}}
  images: {method: argenseg, stage: tokenizer, steps: 2, images_per_step: 2, tasks: {segment: 1.0},
             model: {mask_tokenizer_config: {resolution: 32, width: 32, multipliers: [1, 1, 1, 1], blocks: 1, codes: 64,
                             scales: [1, 2, 3, 4]}}}
  argenseg: {method: argenseg, stage: joint, steps: 2, images_per_step: 1, tasks: {segment: 1.0},
             model: {backbone: "stage:backbone", mask_tokenizer: "stage:images", init: var}}
models: {MODELS}
evaluate: {limit: 8, batch: 3, threads: 1, protocols: [per_expression, per_object_joined]}
latency: {warmup: 1, requests: 2, threads: 1}
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The sentence on stderr; what a profile prints before it is left out."""
        return next((line for line in self.err.splitlines() if line.startswith("genseg: ")), "")


@pytest.fixture
def genseg(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """genseg("segment", path, ...) -> exit code, stdout, stderr."""

    def run(*words: object) -> Result:
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def profile_in(folder):
    """profile_in(data, models) -> a profile in an empty working folder."""

    def make(data: object, models: str = "boxes: backbone, himtok: himtok, argenseg: argenseg"):
        text = PROFILE.replace("DATA", str(data)).replace("MODELS", models)
        (folder / "small.yaml").write_text(text)
        return load_profile(folder / "small.yaml")

    return make


@pytest.fixture
def small(profile_in, squares, build, writing, monkeypatch):
    """A profile with two trained models, whose data are four images of squares."""
    profile = profile_in("data", "himtok: himtok, argenseg: argenseg")
    for command in ("evaluate.run", "latency.run", "experiments.ablation"):
        monkeypatch.setattr(f"bench.{command}.prepare_data", lambda profile, train: None)
    for command in ("evaluate.run", "latency.run", "report.run"):
        monkeypatch.setattr(f"bench.{command}.open_split", lambda profile, split: squares(4))
    for name in ("himtok", "argenseg"):
        method = writing(build(name, **({"mask_tokenizer_config": "short"} if name == "argenseg" else {})))
        method.save_pretrained(model_of_stage(profile, name))
    return profile


@pytest.fixture
def asked(monkeypatch):
    """Counts the requests that models answer."""
    from methods.internvl.model import InternVLModel

    calls = []
    segment = InternVLModel.segment
    monkeypatch.setattr(
        InternVLModel, "segment", lambda self, *given: calls.append(len(given[0])) or segment(self, *given)
    )
    return calls


@pytest.fixture(scope="session")
def easy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Level easy: 12 training scenes and three evaluation splits."""
    root = tmp_path_factory.mktemp("refmoji") / "easy"
    build("easy", root, splits=["val", "testA", "novel"], train_scenes=12, progress=False)
    return root


@pytest.fixture(scope="session")
def full_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Level full: 12 training scenes, with expressions for several objects and for none."""
    root = tmp_path_factory.mktemp("refmoji") / "full"
    build("full", root, splits=[], train_scenes=12, progress=False)
    return root


@pytest.fixture(scope="session")
def read() -> Any:
    """read(root, name) -> the content of a JSON file."""
    return lambda root, name: json.loads((root / name).read_text(encoding="utf-8"))
