"""`genseg gpu-check`: one sentence without a GPU, one line a verdict, and an exit code that tells."""

import pytest
import torch

from bench.cli import main
from bench.latency import acceptance
from bench.latency.acceptance import Verdict

TINY = ["gpu-check", "profile=gpu-check-tiny", "device=cpu"]


def ended(words, capsys) -> tuple[int, str, str]:
    """(exit code, what was printed, what was said on stderr)."""
    try:
        main(words)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    return code, *capsys.readouterr()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(capsys):
    code, _, said = ended(["gpu-check"], capsys)
    assert code == 2
    assert said.count("\n") == 1 and "no CUDA device" in said


@pytest.mark.parametrize("word", ["device=tpu", "budget_s=0", "budget_s=long", "share=2", "shares=1"])
def test_settings_that_cannot_be_used(word, capsys):
    code, _, said = ended([*TINY, word], capsys)
    assert code == 2
    assert word.partition("=")[0] in said


@pytest.mark.parametrize(("state", "code"), [("pass", 0), ("fail", 1), ("left out", 1)])
def test_verdicts(state, code, monkeypatch, capsys, tmp_path):
    asked = []

    def accept(profile, device, budget, share):
        asked.append((profile.results, device.type, budget, share))
        yield Verdict("training, tiny", state, "loss 3 to 2")

    monkeypatch.setattr(acceptance, "accept", accept)
    monkeypatch.chdir(tmp_path)
    found, printed, _ = ended([*TINY, "budget_s=9"], capsys)
    assert found == code
    assert printed.split() == [*state.split(), "training,", "tiny:", "loss", "3", "to", "2"]
    assert asked[0][1:] == ("cpu", 9, 0)
    assert asked[0][0].startswith("results/") and "%" not in asked[0][0]
