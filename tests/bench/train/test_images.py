"""An image tokenizer from a plain folder of images, by the one trainer: with broken files, after a kill, and by two
processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bench.config import load_profile
from bench.train.run import train
from methods.argenseg import tokenizer_training
from methods.argenseg.tokenizer_training import ImageTokenizerTraining

ROOT = Path(__file__).parents[3]
PROFILE = """
name: own
data: {dataset: images, root: images, images: elsewhere}
train: {threads: 1, precision: float32, log_every: 1}
stages:
  tokenizer:
    method: argenseg
    stage: tokenizer
    model:
      mask_tokenizer_config:
        {resolution: 32, width: 32, multipliers: [1, 1, 1, 1], blocks: 1, codes: 64, scales: [1, 2, 3, 4]}
      codebook_restart: {warmup: 2, every: 2}
      adversarial: {start: 1, width: 32, layers: 2}
    tasks: {segment: 1.0}
    steps: 6
    images_per_step: 4
    expressions_per_image: 1
    warmup: 1
"""


@pytest.fixture
def profile_of(tmp_path, monkeypatch):
    """profile_of(override, ...) -> the profile, in a folder with nine images of noise."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(9):
        path = tmp_path / "images" / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40 + i, 50, 3), np.uint8)).save(path)
    (tmp_path / "own.yaml").write_text(PROFILE)
    return lambda *words: load_profile(tmp_path / "own.yaml", words)


def content(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.name not in ("speed.jsonl", "config.yaml")}


def losses(folder: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(folder) / "tokenizer" / "train.jsonl").read_text().splitlines()]


def test_a_folder_of_images_trains_a_tokenizer(profile_of):
    (folder,) = train(profile_of())
    logged = losses("runs/own")
    assert {"l1", "l2", "quantizer", "discriminator", "adversarial", "_codes_used_4"} <= logged[-1].keys()
    assert "discriminator" not in logged[0] and "_iou" not in logged[-1]
    assert not (folder.parent / "validation.jsonl").exists()
    assert not [name for name in load_file(folder / "model.safetensors") if name.startswith("heads")]
    assert ImageTokenizerTraining.load(folder).size == 64


def test_broken_files_are_named_and_replaced(profile_of, capsys):
    Path("images/0/0.png").write_text("no image")
    train(profile_of("runs=one"))
    said = capsys.readouterr().err.replace("\n", " ")
    assert "replaced an image: images/0/0.png: not a readable image" in said
    assert len(losses("one")) == 6


def test_a_killed_run_ends_with_the_same_bytes(profile_of, monkeypatch):
    """The discriminator, its moments and the codes' counts are in the checkpoint."""
    whole, calls = tokenizer_training.tokenizer_loss, []

    def dying(*given):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return whole(*given)

    train(profile_of("runs=one"))
    monkeypatch.setattr(tokenizer_training, "tokenizer_loss", dying)
    with pytest.raises(KeyboardInterrupt):
        train(profile_of("runs=two", "train.save_minutes=0"))
    (checkpoint,) = Path("two/tokenizer").glob("checkpoint-*/tensors.safetensors")
    assert any(name.startswith("optimizer/heads.discriminator") for name in load_file(checkpoint))
    train(profile_of("runs=two"))
    assert len(calls) == 7
    assert content(Path("one")) == content(Path("two"))


def together(folder: Path, *words: str) -> None:
    """`genseg train` by two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench", "train", "profile=own.yaml", *words]
    members = [
        subprocess.Popen(
            command, cwd=folder, env=os.environ | place | {"PYTHONPATH": str(ROOT), "RANK": r, "LOCAL_RANK": r}
        )
        for r in ("0", "1")
    ]
    try:
        assert [member.wait(timeout=300) for member in members] == [0, 0]
    finally:
        for member in members:
            member.kill()


@pytest.mark.slow
def test_two_processes_count_and_learn_as_one(profile_of, tmp_path):
    """Before codes are placed (each process draws its own then) two processes do what one does."""
    parts = "stages.tokenizer.model"
    words = (f"{parts}.codebook_restart.warmup=9", f"{parts}.adversarial.start=9", "stages.tokenizer.lr=1e-5")
    profile_of()
    train(profile_of("runs=one", *words))
    together(tmp_path, "runs=two", *words)
    names = ("l1", "l2", "_codes_used", "_codes_used_1", "_codes_used_4")
    for one, two in zip(losses("one"), losses("two"), strict=True):
        assert [two[name] for name in names] == pytest.approx([one[name] for name in names], abs=2e-5)
    counts = [
        load_file(f"{runs}/tokenizer/model/model.safetensors")["mask_tokenizer.quantize.ema_vocab_hit_SV"]
        for runs in ("one", "two")
    ]
    torch.testing.assert_close(*counts)
    assert counts[0].sum(1).tolist() == pytest.approx([4, 16, 36, 64])  # tokens of a step's four images


@pytest.mark.slow
def test_two_processes_place_codes_and_judge(profile_of, tmp_path):
    profile_of()
    together(tmp_path, "runs=two")
    logged = losses("two")
    assert logged[-1]["_codes_used"] > 0 and "adversarial" in logged[-1]
    assert all(np.isfinite(line["loss"]) for line in logged)
