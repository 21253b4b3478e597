"""The installed lmms-eval with local tasks: models found by the entry point, scores, and the import of its results.

Run it in an environment that has the extra `lmms`; elsewhere it is skipped.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from bench.records import read_records
from methods.argenseg.parity_model import reference_model

ROOT = Path(__file__).parents[4]
QUESTIONS = {
    "yes_no": [("red", "Is it red?", "yes"), ("blue", "Is it blue?", "yes"), ("red", "Is it blue?", "no")],
    "choice": [("red", "What colour is it?\nA. red\nB. blue\nAnswer with a letter.", "A"),
               ("blue", "What colour is it?\nA. red\nB. blue\nAnswer with a letter.", "B")],
}  # fmt: skip

pytestmark = [
    pytest.mark.slow,  # lmms-eval takes half a minute to find its tasks
    pytest.mark.skipif(not find_spec("lmms_eval"), reason="lmms-eval is not installed: pip install -e .[lmms]"),
]


@pytest.fixture
def folder(tmp_path):
    """A working folder with the local tasks' images and questions."""
    for colour in ("red", "blue"):
        Image.new("RGB", (60, 40), colour).save(tmp_path / f"{colour}.png")
    for name, rows in QUESTIONS.items():
        lines = (json.dumps({"image": f"{c}.png", "question": q, "answer": a}) + "\n" for c, q, a in rows)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def harness(folder):
    """harness(model_args, tasks) -> the finished process of lmms-eval, with its output in out/."""

    def run(arguments: str, tasks: str = "squares_yes_no,squares_choice"):
        words = ["--model", "genseg", "--model_args", arguments, "--tasks", tasks, "--batch_size", "2", "--log_samples",
                 "--include_path", str(Path(__file__).parent / "tasks"), "--output_path", "out"]  # fmt: skip
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", "lmms_eval", *words], cwd=folder, env=os.environ | offline, capture_output=True,
            text=True, check=False,
        )  # fmt: skip

    return run


def answers(folder: Path, task: str) -> list[str]:
    (log,) = folder.glob(f"out/*_samples_{task}.jsonl")
    return [json.loads(line)["filtered_resps"] for line in log.read_text().splitlines()]


def imported(genseg, folder, monkeypatch) -> dict:
    monkeypatch.chdir(folder)
    done = genseg("import-lmms", "out", "profile=smoke", "results=here")
    assert done.code == 0, done.err
    assert "Image understanding, lmms-eval/0.7.3" in done.out
    return {r.dataset: r for r in read_records(folder / "here" / "records" / "lmms_eval.jsonl")}


def test_a_model_that_says_yes_scores_what_that_is_worth(build, script, harness, folder, genseg, monkeypatch):
    model = build("himtok")
    script(model, {"\n": "y", "y": "e", "e": "s", "s": model.processor.chat.stop_id}).save_pretrained(folder / "model")
    done = harness("checkpoint=model")
    assert done.returncode == 0, done.stdout + done.stderr
    assert answers(folder, "squares_yes_no") == ["yes"] * 3
    found = imported(genseg, folder, monkeypatch)
    assert found["squares_yes_no"].value == pytest.approx(2 / 3) and found["squares_choice"].value == 0
    assert (found["squares_yes_no"].n, found["squares_choice"].n) == (3, 2)
    assert (found["squares_yes_no"].method, found["squares_yes_no"].failures) == ("himtok", 0)


def test_the_bundled_checkpoint_answers(harness, folder, genseg, monkeypatch):
    done = harness(f"checkpoint={ROOT / 'results' / 'nano' / 'checkpoints' / 'himtok'}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = imported(genseg, folder, monkeypatch)
    assert {name: record.n for name, record in found.items()} == {"squares_yes_no": 3, "squares_choice": 2}


def test_an_official_checkpoint_answers(harness, folder, goldens, genseg, monkeypatch):
    runs = goldens / "argenseg_evaluation"
    save_file(reference_model(runs).mask_tokenizer.state_dict(), folder / "vae.safetensors")
    done = harness(f"checkpoint={runs / 'checkpoint'},mask_tokenizer=vae.safetensors,tiles=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert imported(genseg, folder, monkeypatch)["squares_choice"].method == "argenseg"


def test_a_mistake_ends_the_run_in_one_sentence(harness):
    done = harness("checkpoint=nowhere", "squares_choice")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("genseg: nowhere: holds no config.json")
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"checkpont": "model"}, "did you mean 'checkpoint'?"),
        ({"precision": "float32"}, "No checkpoint is named"),
        ({"checkpoint": "model", "batch_size": "auto"}, "batch_size"),
    ],
)
def test_arguments_are_checked(arguments, told, build, tmp_path, monkeypatch, capsys):
    from bench.evaluate.lmms.model import Genseg

    monkeypatch.chdir(tmp_path)
    build("boxes").save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit) as end:
        Genseg(**arguments)
    assert (end.value.code, told in capsys.readouterr().err) == (2, True)


def test_what_a_model_cannot_do_is_refused_before_the_first_answer(build, tmp_path, capsys, asked):
    from lmms_eval.api.instance import Instance

    from bench.evaluate.lmms.model import Genseg

    build("boxes").save_pretrained(tmp_path / "model")
    model = Genseg(checkpoint=str(tmp_path / "model"))
    model.task_dict = {"t": {"test": [1, 2]}}

    def messages(images):
        image = {"type": "image", "url": Image.new("RGB", (8, 6))}
        return [{"role": "user", "content": [image] * images + [{"type": "text", "text": "What is it?"}]}]

    place = {"task": "t", "doc_id": 0, "repeats": 1}
    requests = [Instance("generate_until", ("", messages, {}, i, "t", "test"), 0, place) for i in range(2)]
    for function, given, told in (
        (model.generate_until, requests, "t test, sample 1: holds 2 images"),
        (model.loglikelihood, requests, "output_type generate_until"),
        (model.generate_until_multi_round, requests, "single questions"),
    ):
        with pytest.raises(SystemExit):
            function(given)
        assert told in capsys.readouterr().err
    assert asked == []
