"""A stage that is killed and started again ends with the bytes of one that was left alone."""

import json
from pathlib import Path

import pytest
import torch

from bench.config import StageConfig, TrainConfig
from bench.data.sampler import MixtureComponent, Sampler
from bench.train.checkpoints import checkpoints
from bench.train.loop import Run, run_stage, samples_per_step
from bench.train.metrics_logger import run_id
from methods.base import UserError

CPU = torch.device("cpu")
STAGES = {
    "boxes": ("pretrain",), "himtok": ("tokenizer", "align", "tune"), "argenseg": ("tokenizer", "joint"),
}  # fmt: skip
PAIRS = [(name, stage) for name, stages in STAGES.items() for stage in stages]


class Killed(Exception):
    pass


@pytest.fixture
def make(build, squares, tmp_path):
    """make(method, stage, folder, **settings) -> a Run from the very beginning, as a new process would build it."""

    def made(name: str, stage: str, folder: str, validate=None, **settings) -> Run:
        task = {"boxes": "box"}.get(name, "segment")
        parts = {"mask_tokenizer_config": "short"} if name == "argenseg" else {}
        if stage == "tokenizer":
            parts |= {"backbone": None, "codebook_restart": {"warmup": 2, "every": 2}}
        config = StageConfig(
            **{
                "method": name,
                "stage": stage,
                "steps": 7,
                "images_per_step": 2,
                "expressions_per_image": 2,
                "lr": 1e-3,
                "warmup": 2,
                "validate_every": 2,
            }
            | settings  # fmt: skip
        )
        component = MixtureComponent({task: squares(3)}, {task: 1.0})
        order = Sampler([component], config.images_per_step, config.expressions_per_image, config.seed)
        train = TrainConfig(threads=1, precision="float32", log_every=1, save_minutes=1e9)
        return Run(f"{name}-{stage}", tmp_path / folder, build(name, **parts), order, config, train, validate)

    return made


def run_and_die(run: Run, save_at: int, die_at: int) -> None:
    """Run with one checkpoint after step `save_at`, and die in step `die_at` before its update."""
    loss, calls = run.method.loss, []

    def dying(batch):
        calls.append(1)
        run.train.save_minutes = 0 if len(calls) == save_at else 1e9
        if len(calls) == die_at:
            raise Killed
        return loss(batch)

    run.method.loss = dying
    with pytest.raises(Killed):
        run_stage(run, CPU)


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the speed, which depends on the hour."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "speed.jsonl")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def drawing(method) -> dict[str, float]:
    """A validation that uses numbers of its own and leaves torch's generator alone."""
    with torch.random.fork_rng(devices=[]):
        return {"weight": float(next(method.parameters()).detach().sum()), "noise": float(torch.rand(()) > 2)}


@pytest.mark.parametrize(("name", "stage"), PAIRS)
def test_killed_and_resumed_ends_with_the_same_bytes(make, name, stage):
    run_stage(make(name, stage, "whole", drawing), CPU)
    run_and_die(make(name, stage, "killed", drawing), save_at=3, die_at=6)
    assert [path.name for path in checkpoints(make(name, stage, "killed").folder)] == ["checkpoint-00000003"]
    again = make(name, stage, "killed", drawing)
    folder = run_stage(again, CPU)
    assert folder == again.folder / "model"
    whole, killed = content(make(name, stage, "whole").folder), content(again.folder)
    assert whole.keys() == killed.keys()
    assert [path for path in whole if whole[path] != killed[path]] == []
    assert {"model/model.safetensors", "train.jsonl", "validation.jsonl"} <= whole.keys()


@pytest.mark.parametrize("noted", [True, False])
def test_logs_that_were_born_after_the_checkpoint_are_cut(make, noted):
    """The first line of each log is written after the checkpoint; one of an earlier version does not note them."""
    late = {"validate_every": 3}

    def made(folder: str) -> Run:
        run = make("boxes", "pretrain", folder, drawing, **late)
        run.train.log_every = 2
        return run

    run_stage(made("whole"), CPU)
    run_and_die(made("killed"), save_at=1, die_at=5)
    run = made("killed")
    assert [path.name for path in checkpoints(run.folder)] == ["checkpoint-00000001"]
    assert (run.folder / "train.jsonl").exists() and (run.folder / "validation.jsonl").exists()
    state = run.folder / "checkpoint-00000001" / "state.json"
    if not noted:
        state.write_text(json.dumps(json.loads(state.read_text()) | {"lines": {}}))
    run_stage(run, CPU)
    assert content(run.folder) == content(made("whole").folder)


def test_killed_and_resumed_with_muon(make):
    muon = {"muon_lr": 0.02}
    run_stage(make("boxes", "pretrain", "whole", **muon), CPU)
    run_and_die(make("boxes", "pretrain", "killed", **muon), save_at=3, die_at=6)
    run = make("boxes", "pretrain", "killed", **muon)
    run_stage(run, CPU)
    assert content(run.folder) == content(make("boxes", "pretrain", "whole").folder)


def test_a_second_kill_and_one_before_the_first_checkpoint(make):
    run_stage(make("himtok", "align", "whole"), CPU)
    run_and_die(make("himtok", "align", "killed"), save_at=99, die_at=3)
    run_and_die(make("himtok", "align", "killed"), save_at=2, die_at=5)
    run_and_die(make("himtok", "align", "killed"), save_at=3, die_at=4)  # counted from step 2 on
    run = make("himtok", "align", "killed")
    run_stage(run, CPU)
    assert content(run.folder) == content(make("himtok", "align", "whole").folder)


def test_a_broken_checkpoint_means_starting_from_an_older_one_or_anew(make):
    run_stage(make("boxes", "pretrain", "whole"), CPU)
    run_and_die(make("boxes", "pretrain", "killed"), save_at=3, die_at=6)
    run = make("boxes", "pretrain", "killed")
    path = next(run.folder.glob("checkpoint-*")) / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    run_stage(run, CPU)
    assert content(run.folder) == content(make("boxes", "pretrain", "whole").folder)


def test_the_log_counts_steps_samples_and_rates(make):
    run = make("himtok", "align", "a", drawing)
    run.train.log_every = 3
    run_stage(run, CPU)
    lines = [json.loads(line) for line in (run.folder / "train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 7]
    assert [line["samples"] for line in lines] == [12, 24, 28]
    assert {"loss", "text", "mask", "hierarchy", "lr", "_gradient"} <= lines[0].keys()
    assert lines[-1]["lr"] < lines[0]["lr"]
    checks = [json.loads(line) for line in (run.folder / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in checks] == [2, 4, 6, 7]
    assert samples_per_step(run.stage) == 4


def test_without_a_period_it_validates_at_the_end_only(make):
    run = make("boxes", "pretrain", "a", drawing, validate_every=0)
    run_stage(run, CPU)
    assert [json.loads(line)["step"] for line in (run.folder / "validation.jsonl").read_text().splitlines()] == [7]


def test_validation_sees_the_method_at_rest_and_training_goes_on(make):
    modes = []

    def watch(method):
        modes.append(method.training)
        return {}

    run = make("boxes", "pretrain", "a", watch)
    run_stage(run, CPU)
    assert set(modes) == {False}
    assert run.method.training


def test_training_lowers_the_loss(make):
    run = make("boxes", "pretrain", "a", steps=25, lr=3e-3)
    run_stage(run, CPU)
    losses = [json.loads(line)["loss"] for line in (run.folder / "train.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]


def test_seeds_make_different_models(make):
    first, second = make("boxes", "pretrain", "a"), make("boxes", "pretrain", "b", seed=1)
    models = [(run_stage(run, CPU) / "model.safetensors").read_bytes() for run in (first, second)]
    assert models[0] != models[1]


def test_a_loss_that_is_no_number_names_step_and_samples(make):
    run = make("boxes", "pretrain", "a")
    loss = run.method.loss
    run.method.loss = lambda batch: {name: value * float("nan") for name, value in loss(batch).items()}
    with pytest.raises(UserError, match=r"boxes-pretrain: the loss is nan at step 0; lower lr .*squares:\d-") as e:
        run_stage(run, CPU)
    assert "\n" not in str(e.value)
    assert not (run.folder / "model").exists()


def test_a_model_appears_only_when_it_is_whole(make):
    run = make("himtok", "tokenizer", "a")
    save = run.method.save_pretrained

    def half(folder, dtype="float32"):
        save(folder, dtype)
        raise Killed

    run.method.save_pretrained = half
    with pytest.raises(Killed):
        run_stage(run, CPU)
    assert not (run.folder / "model").exists()
    again = make("himtok", "tokenizer", "a")
    run_stage(again, CPU)
    assert content(again.folder) == content(run_stage(make("himtok", "tokenizer", "b"), CPU).parent)


def test_a_step_can_be_the_mean_over_all_of_its_tokens(make, squares):
    """Whatever micro-batches it is cut into; answers with boxes and with names differ in length."""

    def losses(folder: str, images: int, normalisation: str) -> list[float]:
        rule = {"micro_batch_images": images, "loss_normalisation": normalisation}
        run = make("himtok", "tune", folder, steps=2, images_per_step=4, expressions_per_image=1, **rule)
        component = MixtureComponent(dict.fromkeys(("box", "question"), squares(3)), {"box": 0.5, "question": 0.5})
        run.order = Sampler([component], 4, 1, 0)
        run_stage(run, CPU)
        return [json.loads(line)["loss"] for line in (run.folder / "train.jsonl").read_text().splitlines()]

    whole = losses("whole", 4, "micro_batch")
    assert losses("cut", 1, "tokens") == pytest.approx(whole, abs=1e-5)
    assert losses("alike", 1, "micro_batch")[0] != pytest.approx(whole[0], abs=1e-3)


def test_a_sample_that_cannot_be_cut_is_replaced(make):
    run = make("himtok", "tune", "cut", steps=1, max_length=20)
    with pytest.raises(UserError, match="images in a row cannot be used.*would be cut at 20; raise max_length"):
        run_stage(run, CPU)


def test_a_tracker_knows_each_run_by_a_name_of_its_own(tmp_path):
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        folder.mkdir()
    assert run_id(first) == run_id(first) != run_id(second)
