"""ZeRO in bfloat16: rounded working weights, float32 masters. Losses are those of float32 weights under autocast but
for the rounding, nothing of a mask tokenizer that decides ids moves, and a killed run loses no bit of its masters."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.bench.train.test_processes import losses, run, start, weights  # noqa: F401 (fixtures)

FEW = {"steps": 6}
LOW = {"precision": "bfloat16"}
# Of a loss: bfloat16 keeps 8 bits, a weight is off by up to 0.2 %, and Adam's first steps are signs that may flip.
TOLERANCE = 0.01


@pytest.mark.slow
@pytest.mark.parametrize("method", ["himtok", "argenseg"])
def test_losses_are_those_of_float32_weights_but_for_the_rounding(start, run, method):  # noqa: F811
    alone = run("one", method, train=LOW, settings=FEW)
    shared = [run(f"zero-{zero}", method, zero, FEW, LOW) for zero in (1, 2, 3)]
    assert start(1, alone)[0] == [0]
    codes, said = start(2, *shared)
    assert codes == [0, 0], said[-3000:]
    for each in shared:
        assert losses(each) == pytest.approx(losses(alone), rel=TOLERANCE), each["folder"]
        ours, theirs = weights(each), weights(alone)
        for name, tensor in ours.items():
            assert tensor.dtype == theirs[name].dtype
            if name.startswith(("mask_tokenizer.encoder", "mask_tokenizer.quantize", "mask_tokenizer.latent")):
                assert torch.equal(tensor, theirs[name]), name
        trained = ours["backbone.native.lm_head.weight"]
        assert not torch.equal(trained, trained.bfloat16().float())  # the masters are saved


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_a_killed_run_keeps_its_masters(start, run, zero):  # noqa: F811
    whole = run("whole", zero=zero, settings=FEW, train=LOW)
    killed = run("killed", zero=zero, settings=FEW, train=LOW, save=3, kill=5)
    codes, said = start(2, whole)
    assert codes == [0, 0], said[-3000:]
    assert start(2, killed)[0] == [2, -9]
    moved = run("moved", zero=5 - zero, settings=FEW, train=LOW)
    shutil.copytree(killed["folder"], moved["folder"])
    codes, said = start(2, killed, moved)
    assert codes == [0, 0], said[-3000:]
    assert losses(killed) == losses(whole)
    ours = load_file(Path(killed["folder"]) / "model" / "model.safetensors")
    assert all(torch.equal(tensor, ours[name]) for name, tensor in weights(whole).items())
    assert losses(moved) == pytest.approx(losses(whole), abs=2e-3)  # the same masters, sums in another order
