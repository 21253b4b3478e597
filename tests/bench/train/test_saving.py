"""Checkpoints hold training up for no more than their share of the time, and are written while it goes on."""

import threading

import pytest
import torch

from bench.config import TrainConfig
from bench.distributed import SINGLE_PROCESS
from bench.train import checkpoints as files
from bench.train import saving
from bench.train.checkpoints import Shard, checkpoints
from bench.train.saving import Saver
from methods.base import UserError


def shard() -> Shard:
    return Shard({"a": torch.ones(3)})


@pytest.fixture
def now(monkeypatch):
    """[the time]; copying a checkpoint takes 0 s unless a test says otherwise."""
    now = [0.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("cost", "share", "gap"), [(1, 0.02, 180), (20, 0.02, 1000), (20, 0.5, 180)])
def test_checkpoints_take_no_more_than_their_share_of_the_time(tmp_path, now, cost, share, gap):
    saver = Saver(tmp_path, TrainConfig(save_minutes=3, save_share=share), SINGLE_PROCESS)
    assert "not known" in saver.expected()

    def slow() -> Shard:
        now[0] += cost
        return shard()

    now[0] = 181
    assert saver.due()
    saver.save(slow, 1, {}, wait=True)
    assert f"took {cost}.0 s the last time" in saver.expected()
    assert ("raise the time" in saver.expected()) == (cost > 15)
    now[0] += gap
    assert not saver.due()
    now[0] += 1
    assert saver.due()
    saver.train.save_minutes = 0  # after every step, whatever it costs
    assert saver.eager
    saver.save(slow, 2, {}, wait=True)
    now[0] += 0.1
    assert saver.due()
    assert saver.lost == 2 * cost


@pytest.fixture
def slow_disk(monkeypatch):
    """An event; nothing is written before it is set."""
    ready, save_file = threading.Event(), files.save_file
    monkeypatch.setattr(files, "save_file", lambda *args: ready.wait(30) and save_file(*args))
    yield ready
    ready.set()


def test_training_goes_on_while_one_is_written(tmp_path, now, slow_disk):
    saver = Saver(tmp_path, TrainConfig(), SINGLE_PROCESS)
    saver.save(shard, 5, {}, wait=False)
    now[0] = 1000
    assert not saver.written() and not saver.due() and not checkpoints(tmp_path)
    slow_disk.set()
    saver.close()
    assert saver.written()
    saver.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000005"]
    assert saver.due() and saver.lost == 0


def test_one_is_on_the_disk_before_the_next_is_begun(tmp_path, slow_disk):
    saver = Saver(tmp_path, TrainConfig(), SINGLE_PROCESS)
    saver.save(shard, 5, {}, wait=False)
    threading.Timer(0.05, slow_disk.set).start()
    saver.save(shard, 6, {}, wait=True)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000006"]


def test_what_a_thread_cannot_write_is_told_to_all(tmp_path, monkeypatch):
    saver = Saver(tmp_path, TrainConfig(), SINGLE_PROCESS)
    saver.save(shard, 5, {}, wait=True)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    saver.save(shard, 6, {}, wait=False)
    with pytest.raises(UserError, match="checkpoint-00000006: cannot be written .No space left"):
        saver.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000005"]
