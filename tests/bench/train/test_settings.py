"""A stage that is there counts only for the settings, the data and the weights that it was made with."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from bench.config import load_profile
from bench.data import mixture
from bench.distributed import DistributedContext
from bench.train import settings, stages
from bench.train.folders import model_of_stage
from bench.train.stages import finished_model, train_stage
from methods.base import UserError
from methods.registry import method_class

CPU = torch.device("cpu")
PROFILE = """
name: small
data: {root: data, train_scenes: 5}
runs: runs
train: {threads: 1, precision: float32, validate_samples: 2, log_every: 1}
stages:
  first: {method: boxes, stage: pretrain, steps: 4, images_per_step: 1, expressions_per_image: 1, warmup: 1,
          tasks: {box: 1.0},
          model: {size: tiny, vocabulary: 320}}
  second: {method: himtok, stage: align, steps: 1, images_per_step: 1, expressions_per_image: 1, warmup: 1,
          tasks: {segment: 1.0},
           model: {backbone: "stage:first",
                   mask_tokenizer_config:
                     {resolution: 64, width: 64, encoder_layers: 1, decoder_layers: 1, heads: 4, ffn_out: 32,
                      codes: 64, pixel_base: 8, pixel_multipliers: [1, 1, 1, 1, 1], pixel_blocks: 1}}}
"""
SAME = ["train.threads=2", "train.log_every=3", "train.save_minutes=9", "train.validate_samples=0", "train.workers=1",
        "train.loss_spike_factor=0", "data.workers=2", "data.root=elsewhere", "stages.first.validate_every=2",
        "evaluate.limit=3"]  # fmt: skip
OTHER = {
    "seed=7": "stages.first.seed = 0 (now 7)",
    "stages.first.lr=0.5": "stages.first.lr = 0.001 (now 0.5)",
    "stages.first.steps=9": "stages.first.steps = 4 (now 9)",
    "stages.first.weights.text=2": "stages.first.weights.text = null (now 2.0)",
    "stages.first.model.vocabulary=330": "stages.first.model.vocabulary = 320 (now 330)",
    "stages.first.micro_batch_images=1": "stages.first.micro_batch_images = 0 (now 1)",
    "train.precision=bfloat16": 'train.precision = "float32" (now "bfloat16")',
    "data.train_scenes=6": "data.train_scenes = 5 (now 6)",
    "data.level=full": 'data.level = "easy" (now "full")',
}


@pytest.fixture
def train(tmp_path, monkeypatch, squares):
    """train(stage, override, ...) -> the stage's model, on squares, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(PROFILE)
    monkeypatch.setattr(mixture, "open_dataset", lambda *given, **options: squares(3))
    return lambda stage, *words: train_stage(load_profile(tmp_path / "small.yaml", words), stage, "text", CPU)


@pytest.fixture
def unfinished(train, monkeypatch):
    """The first stage with a checkpoint of its second step."""
    build, calls = method_class("boxes").build, []

    def dying(parts, corpus):
        method = build(parts, corpus)
        loss = method.loss

        def dies(batch):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return loss(batch)

        method.loss = dies
        return method

    with monkeypatch.context() as patch:
        patch.setattr(method_class("boxes"), "build", dying)
        with pytest.raises(KeyboardInterrupt):
            train("first", "train.save_minutes=0")
    assert list(Path("runs/first").glob("checkpoint-00000002"))
    return train


def refusal(train, *words) -> str:
    with pytest.raises(UserError) as caught:
        train(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_finished_stage_is_refused_for_other_settings(train):
    folder = train("first")
    before = (folder / "model.safetensors").read_bytes()
    for word, told in OTHER.items():
        assert refusal(train, "first", word) == (
            f"runs/first: was made with {told}; set it back, remove the folder to train it again, "
            "or give another runs=."
        )
    for word in SAME:
        assert train("first", word) == folder
    assert (folder / "model.safetensors").read_bytes() == before
    both = refusal(train, "first", "seed=7", "stages.first.lr=0.5")
    assert "lr = 0.001 (now 0.5), stages.first.seed = 0 (now 7)" in both


def test_an_unfinished_stage_is_refused_for_other_settings_and_goes_on_with_its_own(unfinished):
    for word, told in OTHER.items():
        assert told in refusal(unfinished, "first", word)
    folder = unfinished("first", *SAME[1:5])  # threads add up in another order
    whole = unfinished("first", "runs=whole", "train.log_every=3")
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_stage_is_refused_when_what_it_builds_on_was_trained_anew(train):
    train("first")
    folder = train("second")
    assert train("second") == folder
    shutil.rmtree("runs/first")
    train("first", "stages.first.seed=1")
    assert re.search(
        r'made with stages.second.model.backbone = "weights \w{16}" \(now "weights', refusal(train, "second")
    )
    shutil.rmtree("runs/first")
    train("first")  # the same bytes as before
    assert train("second") == folder


def test_a_finished_model_counts_for_its_own_settings_whatever_its_data(train):
    def found(*words):
        return finished_model(load_profile("small.yaml", words), "second")

    assert found() is None
    train("first")
    assert found("seed=7") is None
    folder = train("second")
    for word in [*SAME, "data.train_scenes=6", "data.dataset=refcoco", "train.precision=bfloat16"]:
        assert found(word) == folder
    for word in ("stages.second.lr=0.5", "stages.first.lr=0.5", "stages.second.model.backbone=nano"):
        assert word.split("=")[0] in refusal(found, word)
    shutil.rmtree("runs/first")  # no longer needed
    assert found() == folder


def test_a_stage_from_before_settings_were_kept_is_taken_as_it_is(unfinished):
    Path("runs/first/settings.json").unlink()
    folder = unfinished("first", "stages.first.lr=0.5")
    assert unfinished("first", "seed=7") == folder
    assert not Path("runs/first/settings.json").exists()  # nobody knows with what it began


def test_a_stage_without_a_checkpoint_begins_anew_with_any_settings(train):
    Path("runs/first").mkdir(parents=True)
    Path("runs/first/settings.json").write_text("{}")
    train("first", "seed=7")
    assert "seed = 7 (now 0)" in refusal(train, "first")


def test_a_setting_that_came_later_had_its_default(train):
    folder = train("first")
    path = Path("runs/first/settings.json")
    kept = json.loads(path.read_text())
    del kept["stages"]["first"]["lora"]
    path.write_text(json.dumps(kept))
    assert train("first") == folder
    assert "lora.r = null (now 4)" in refusal(train, "first", "stages.first.lora.r=4")


def test_settings_that_cannot_be_read_are_named(train):
    train("first")
    Path("runs/first/settings.json").write_text("{")
    assert "runs/first/settings.json: not valid JSON" in refusal(train, "first")


def test_the_first_process_alone_writes(train, monkeypatch):
    monkeypatch.setattr(stages, "run_stage", lambda run, device: run.folder)
    train_stage(load_profile("small.yaml"), "first", "text", CPU, DistributedContext(1, 2))
    assert not Path("runs/first").exists()
    train_stage(load_profile("small.yaml"), "first", "text", CPU, DistributedContext(0, 2))
    assert Path("runs/first/settings.json").exists()
    assert not model_of_stage(load_profile("small.yaml"), "first").exists()


MIXTURE = """
name: own
data:
  dataset: refcoco
  root: refer
  mixture: {refcoco: {weight: 1}, words: {dataset: captions, root: text, weight: 1}}
stages:
  masks: {method: himtok, stage: tune, steps: 1, tasks: {segment: 1.0}, mixture: {refcoco: 1}}
"""


def test_a_mixture_counts_as_far_as_the_stage_takes_from_it(tmp_path):
    (tmp_path / "own.yaml").write_text(MIXTURE)

    def data(*words):
        profile = load_profile(tmp_path / "own.yaml", words)
        return settings.settings_of(profile, "masks", profile.stages["masks"], {})["data"]

    assert data("data.mixture.words.weight=3", "data.dataset=refcoco+", "data.train_scenes=3") == data()
    for word in ("data.root=elsewhere", "data.images=coco", "data.mixture.refcoco.weight=2"):
        assert data(word) != data()
