"""Images whose samples are of like length share a micro-batch; nothing else changes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.config import StageConfig, TrainConfig
from bench.data.sampler import MixtureComponent, Sampler
from bench.distributed import SINGLE_PROCESS, DistributedContext
from bench.train.batches import MicroBatch, MicroBatches, stream
from bench.train.loop import Run, run_stage
from methods.base import TrainingSample, UserError


class Fake:
    """A method whose samples are as long as chance says; `bad` images cannot be used."""

    def __init__(self, bad=()):
        self.bad = bad

    def prepare(self, example, task, rng) -> TrainingSample:
        if example.image_id in self.bad:
            raise UserError(f"squares sample {example.ref_id}: damaged.")
        length = int(rng.integers(2, 60))
        return TrainingSample([0] * length, [0] * length)

    def collate(self, samples, pack=False):
        return {"lengths": [len(sample.ids) for sample in samples]}


def batches(
    squares, group=1, steps=12, images=8, micro=2, seed=0, bad=(), available=20, expressions_per_image=2
) -> MicroBatches:
    stage = StageConfig(method="m", stage="s", steps=steps, images_per_step=images, length_bucketing=group, seed=seed)
    order = Sampler([MixtureComponent({"box": squares(available)}, {"box": 1.0})], images, expressions_per_image, seed)
    return MicroBatches(Fake(bad), order, stage, micro)


def padding(found: list[MicroBatch]) -> float:
    """Share of the padded rows that is padding."""
    held = sum(sum(micro.batch["lengths"]) for micro in found)
    return 1 - held / sum(len(micro.batch["lengths"]) * max(micro.batch["lengths"]) for micro in found)


def names(found: list[MicroBatch]) -> list[str]:
    return [name for micro in found for name in micro.names]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 13), st.integers(0, 5))
def test_a_window_holds_the_same_samples_in_another_order(squares, group, steps, seed):
    plain = list(stream(batches(squares, 1, steps, seed=seed), SINGLE_PROCESS, 0, 0))
    grouped = list(stream(batches(squares, group, steps, seed=seed), SINGLE_PROCESS, 0, 0))
    assert len(plain) == len(grouped) == 4 * steps
    assert [micro.seed for micro in plain] == [micro.seed for micro in grouped]
    for first in range(0, 4 * steps, 4 * group):
        one, other = (names(found[first : first + 4 * group]) for found in (plain, grouped))
        assert sorted(one) == sorted(other)
    if group == 1:
        assert names(plain) == names(grouped)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 12), st.sampled_from([1, 2, 4]))
def test_a_resumed_run_on_other_processes_sees_the_rest(squares, group, start, size):
    whole = [micro.names for micro in stream(batches(squares, group), SINGLE_PROCESS, 0, 0)]
    parts = batches(squares, group)
    ranks = [[micro.names for micro in stream(parts, DistributedContext(rank, size), start, 0)] for rank in range(size)]
    assert [each for row in zip(*ranks, strict=True) for each in row] == whole[4 * start :]


def test_there_is_less_padding_and_no_trend(squares):
    plain, grouped = (
        list(stream(batches(squares, group, steps=64, expressions_per_image=1), SINGLE_PROCESS, 0, 0))
        for group in (1, 8)
    )
    assert padding(grouped) < 0.4 * padding(plain)
    longest = [max(micro.batch["lengths"]) for micro in grouped]
    rising = sum(a < b for a, b in zip(longest[::4], longest[4::4], strict=False))
    assert 16 < rising < 48  # of 63: sorted windows would rise nearly always


def test_broken_images_are_replaced_and_told_once(squares):
    bad = {1, 2, 3}
    plain, grouped = (list(stream(batches(squares, group, steps=6, bad=bad), SINGLE_PROCESS, 0, 0)) for group in (1, 3))
    told = [sorted(text for micro in found for text in micro.broken) for found in (plain, grouped)]
    assert told[0] == told[1] != []
    every = list(stream(batches(squares, 3, steps=6, bad=set(range(20))), SINGLE_PROCESS, 0, 0))
    assert "8 images in a row cannot be used" in every[0].error


def test_workers_prepare_the_same(squares):
    alone, helped = (list(stream(batches(squares, 3), SINGLE_PROCESS, 4, workers)) for workers in (0, 2))
    assert [micro.names for micro in alone] == [micro.names for micro in helped]


def test_a_grouped_run_goes_on_and_refuses_another_window(build, squares, tmp_path):
    def make(folder, **changes) -> Run:
        stage = StageConfig(**{"method": "boxes", "stage": "pretrain", "steps": 6, "images_per_step": 2,
                               "micro_batch_images": 1,
                               "length_bucketing": 4, "warmup": 2} | changes)  # fmt: skip
        order = Sampler([MixtureComponent({"box": squares(5)}, {"box": 1.0})], 2, 2, 0)
        train = TrainConfig(threads=1, precision="float32", log_every=1, save_minutes=1e9)
        return Run("test", tmp_path / folder, build("boxes"), order, stage, train)

    cpu = torch.device("cpu")
    run_stage(make("whole"), cpu)
    run = make("killed")
    loss, calls = run.method.loss, []

    def dying(batch):
        calls.append(1)
        run.train.save_minutes = 0 if len(calls) == 6 else 1e9
        if len(calls) == 9:
            raise KeyboardInterrupt
        return loss(batch)

    run.method.loss = dying
    with pytest.raises(KeyboardInterrupt):
        run_stage(run, cpu)
    for change, told in (
        ({"length_bucketing": 1}, "length_bucketing = 4, now it is None"),
        ({"steps": 9}, "steps = 6"),
    ):
        with pytest.raises(UserError, match=f"the checkpoint was made with {told}"):
            run_stage(make("killed", **change), cpu)
    run_stage(make("killed"), cpu)
    for name in ("train.jsonl", "model/model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
