"""Training that starts from published weights, by the commands of docs/training.md: one step from tiny checkpoints in
the official layouts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SMALL = ("data.images=data/coco/train2014", "train.zero=0", "train.precision=float32", "train.threads=1",
         "train.workers=0", "train.validate_samples=2")  # fmt: skip
MAKE = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from checkpoints import write_checkpoints, write_parts
from public_data import write_training
write_checkpoints(Path("weights"))
write_parts(Path("weights"))
write_training(Path("data"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with weights/ and data/."""
    place = tmp_path_factory.mktemp("published")
    done = subprocess.run([sys.executable, "-c", MAKE, str(HERE), str(HERE.parents[1])], cwd=place, env=environment())
    assert done.returncode == 0
    return place


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(HERE.parents[1])}


COMMANDS = {
    "himtok-8B/finetune": ["profile=himtok", "finetune",
                           "stages.finetune.model.start=weights/InternVL2_5-HiMTok-8B"],
    "argenseg-8B/finetune": ["profile=argenseg", "finetune", "stages.finetune.model.start=weights/ARGenSeg-8B"],
    "himtok-tiny/align": ["profile=himtok", "size=tiny", "align", "data.skip_missing=true",
                          "stages.align.model.mask_tokenizer=weights/himtok.pth"],
    "argenseg-tiny/joint": ["profile=argenseg", "size=tiny", "joint", "data.skip_missing=true",
                            "stages.joint.model.mask_tokenizer=weights/vae_ch160v4096z32.pth"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("run", COMMANDS)
def test_one_step(folder, run):
    stage = run.split("/")[1]
    once = [f"stages.{stage}.{key}" for key in ("steps=1", "images_per_step=2", "micro_batch_images=1", "warmup=0")]
    words = [*COMMANDS[run], "weights=weights", "data.root=data", *SMALL, *once]
    done = subprocess.run([sys.executable, "-m", "bench", "train", *words], cwd=folder, env=environment(),
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [json.loads(row) for row in (folder / "runs" / run / "train.jsonl").read_text().splitlines()]
    assert line["step"] == 1 and line["loss"] > 0
    assert (folder / "runs" / run / "model/config.json").is_file()
