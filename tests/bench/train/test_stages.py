"""From a profile to a stage: what it builds on, its data, its validation."""

import copy
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.config import load_profile
from bench.data import mixture, splits
from bench.data.mixture import corpus_of, open_mixture
from bench.data.sampler import MixtureComponent
from bench.evaluate.shapes import KINDS
from bench.evaluate.validation import validation
from bench.train import stages
from bench.train.folders import model_of_stage, needed_stages, stage_folder
from bench.train.stages import model_config, train_stage
from methods.base import Prediction, UserError

CPU = torch.device("cpu")
PROFILE = """
name: small
data: {root: data}
runs: runs
train: {threads: 1, precision: float32, validate_samples: 4, log_every: 1}
stages:
  backbone: {method: boxes, stage: pretrain, steps: 2, images_per_step: 1, warmup: 1, tasks: {box: 1.0},
             model: {size: tiny, vocabulary: 320}}
  tokens: {method: himtok, stage: tokenizer, steps: 1, tasks: {segment: 1.0}}
  align: {method: himtok, stage: align, steps: 1, tasks: {segment: 2.0, caption: 1.0, question: 1.0},
          model: {backbone: "stage:backbone", mask_tokenizer: "stage:tokens"}}
  tune: {method: himtok, stage: tune, steps: 1, tasks: {segment: 1.0}, model: {start: "stage:align"}}
models: {himtok: tune}
"""


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(PROFILE)
    return load_profile(tmp_path / "small.yaml")


@pytest.fixture
def opened(squares, monkeypatch):
    """Stands in for the datasets on disk, and lists what was opened."""
    calls = []

    def open_dataset(name, root, split, **options):
        calls.append((name, str(root), split, {key: value for key, value in options.items() if value not in ("", [])}))
        return squares(5)

    for module in (mixture, splits):
        monkeypatch.setattr(module, "open_dataset", open_dataset)
    return calls


def test_what_a_stage_builds_on_comes_first_and_once(profile):
    assert needed_stages(profile, "tune") == ["backbone", "tokens", "align", "tune"]
    assert needed_stages(profile, "backbone") == ["backbone"]


def test_the_model_names_the_folders_of_finished_stages(profile):
    for name in ("backbone", "tokens"):
        model_of_stage(profile, name).mkdir(parents=True)
    parts = model_config(profile, profile.stages["align"])
    assert parts["backbone"] == str(model_of_stage(profile, "backbone"))
    assert parts["mask_tokenizer"] == str(model_of_stage(profile, "tokens"))
    assert parts["seed"] == 0


def test_a_part_that_is_not_trained_is_named(profile):
    with pytest.raises(UserError, match="train stage backbone first"):
        model_config(profile, profile.stages["align"])


def test_each_task_is_served_by_its_kind_of_data(profile, opened):
    (found,) = open_mixture(profile, profile.stages["align"])
    assert set(found.datasets) == set(found.tasks) == {"segment", "caption", "question"}
    assert [options.get("reader") for *_, options in opened] == ["captions", "captions", None]
    assert {split for _, _, split, _ in opened} == {"train"}
    assert opened[2][3] == {"semantic": False, "with_images": True}
    opened.clear()
    open_mixture(profile, profile.stages["backbone"])
    assert opened[0][3] == {"semantic": True, "with_images": True}


def test_the_corpus_holds_every_text_once_and_boxes(squares):
    dataset = squares(2)
    shared = [MixtureComponent({"a": dataset, "b": dataset}, {}), MixtureComponent({"a": dataset}, {})]
    texts = list(corpus_of(shared)())
    assert texts.count("the red square") == 2  # once for each image
    boxes = [text for text in texts if text.startswith("[[")]
    assert len(boxes) == 500
    assert list(corpus_of(shared[1:])()) == texts


@pytest.mark.parametrize("name", ["boxes", "himtok", "argenseg"])
def test_validation_measures_answers_and_leaves_training_alone(profile, opened, build, name):
    method = build(name, **({"mask_tokenizer_config": "short"} if name == "argenseg" else {}))
    measure = validation(profile, profile.stages["tune"])
    state = torch.get_rng_state()
    values = measure(method)
    assert torch.equal(torch.get_rng_state(), state)
    assert values.keys() == {"ciou", "giou", "acc@0.5", "acc@0.7", "acc@0.9", "failures"}
    assert all(np.isfinite(value) for value in values.values())
    assert measure(method) == values


def test_a_mask_tokenizer_is_validated_by_its_round_trip(profile, opened, build):
    method = build("himtok", backbone=None)
    measure = validation(profile, profile.stages["tokens"])
    shapes = {f"shapes/{kind}" for kind in (*KINDS, "all", "resize")}
    assert measure(method).keys() == {"ciou", "giou"} | shapes
    method.mask_tokenizer.decode = lambda ids: torch.zeros(len(ids), 64, 64)
    found = measure(method)
    assert found.pop("shapes/resize") > 0.9 and not any(found.values())


@pytest.mark.parametrize(
    ("answer", "giou"),
    [({}, 1), ({"failure": "no mask"}, 0), ({"failure": "no box in the answer", "token_ids": (1, 2)}, 1)],
)
def test_no_answer_is_right_in_validation(profile, opened, squares, monkeypatch, answer, giou):
    dataset = copy.copy(squares(1))
    dataset.examples = [replace(e, mask=np.zeros_like(e.mask), box=None, no_target=True) for e in dataset.examples]
    monkeypatch.setattr(splits, "open_dataset", lambda *given, **options: dataset)
    reader = SimpleNamespace(
        segment=lambda requests, decoding=None: [Prediction(np.zeros((48, 64), bool), **answer)] * len(requests)
    )
    assert validation(profile, profile.stages["tune"])(reader)["giou"] == giou


@pytest.mark.parametrize("name", ["tokens", "tune"])
def test_no_samples_mean_no_validation(profile, opened, name):
    profile.train.validate_samples = 0
    assert validation(profile, profile.stages[name]) is None
    assert opened == []


def test_a_referent_of_nothing_is_segmented_but_has_no_box(profile, opened, squares, monkeypatch):
    monkeypatch.setattr(type(squares(5)), "with_targets", lambda self: squares(2))
    profile.stages["align"].tasks = {"segment": 1.0, "segment_box": 1.0, "choose": 1.0}
    (found,) = open_mixture(profile, profile.stages["align"])
    assert {task: len(dataset) for task, dataset in found.datasets.items()} == {
        "segment": 15, "segment_box": 6, "choose": 6
    }  # fmt: skip


def test_a_stage_is_trained_once(profile, opened, monkeypatch):
    folder = train_stage(profile, "backbone", "the resolved profile", CPU)
    assert folder == model_of_stage(profile, "backbone")
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert (folder.parent / "config.yaml").read_text() == "the resolved profile"
    monkeypatch.setattr(stages, "run_stage", lambda *args: pytest.fail("trained again"))
    assert train_stage(profile, "backbone", "", CPU) == folder


def test_the_profiles_seed_makes_every_stage_another_training(profile, opened):
    def weights(**changes):
        profile.runs = "_".join(f"{name}{value}" for name, value in changes.items()) or "as_given"
        profile.seed, profile.stages["backbone"].seed = changes.get("seed", 0), changes.get("own", 0)
        return (train_stage(profile, "backbone", "", CPU) / "model.safetensors").read_bytes()

    assert weights() != weights(seed=3)
    assert weights(own=3) == weights(seed=1, own=2)


def test_a_second_training_of_a_stage_is_refused_while_another_process_holds_it(profile, opened, tmp_path):
    folder = stage_folder(profile, "backbone")
    folder.mkdir(parents=True)
    (folder / stages.LOCK).touch()
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys\n"
         "handle = open(sys.argv[1], 'a')\nfcntl.flock(handle, fcntl.LOCK_EX)\nprint('held', flush=True)\ninput()",
         str(folder / stages.LOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout.readline() == b"held\n"
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match=r"another command is writing there; wait for it to end"):
        train_stage(profile, "backbone", "", CPU)
    assert sorted(folder.rglob("*")) == before
    holder.communicate(b"\n")
    assert train_stage(profile, "backbone", "", CPU).is_dir()
