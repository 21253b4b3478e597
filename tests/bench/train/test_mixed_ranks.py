"""Four processes, each with data of one kind: boxes, masks, both, or text without an image. What a process exchanges
must not depend on what it was dealt, in any stage and engine, and all give the losses of one process."""

import shutil

import pytest

from tests.bench.train.test_processes import losses, run, start  # noqa: F401 (fixtures)

STAGES = [
    ("boxes", "pretrain", (0, 1, 2, 3)),
    ("himtok", "align", (0, 1, 2, 3)),
    ("himtok", "tune", (0, 1, 2, 3)),
    ("himtok", "tokenizer", (0,)),  # masks alone; ZeRO refuses these
    ("argenseg", "joint", (0, 1, 2, 3)),
    ("argenseg", "tokenizer", (0,)),
]
SETTINGS = {"images_per_step": 12, "steps": 4}


@pytest.mark.slow
@pytest.mark.parametrize("method", dict.fromkeys(method for method, *_ in STAGES))
def test_every_stage_and_engine(start, run, method):  # noqa: F811
    alone, together = [], []
    for _, stage, engines in (each for each in STAGES if each[0] == method):
        given = {"method": method, "stage": stage, "settings": SETTINGS, "mixed": True}
        alone.append(run(f"{method}-{stage}", **given))
        together += [(alone[-1], run(f"{method}-{stage}-{zero}", zero=zero, **given)) for zero in engines]
    codes, said = start(1, *alone)
    assert codes == [0], said[-3000:]
    codes, said = start(4, *(shared for _, shared in together))
    assert codes == [0] * 4, said[-3000:]
    for one, four in together:
        assert losses(four) == pytest.approx(losses(one), abs=1e-5), four["folder"]


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 3])
def test_a_killed_run_goes_on_with_fewer_processes(start, run, tmp_path, zero):  # noqa: F811
    given = {"zero": zero, "settings": SETTINGS | {"steps": 6}, "mixed": True}
    alone, killed = run("one", **given | {"zero": 0}), run("killed", save=3, kill=5, **given)
    assert start(1, alone)[0] == [0]
    assert start(4, killed)[0] == [2, 2, 2, -9]
    for processes in (2, 3):
        moved = run(f"on-{processes}", **given)
        shutil.copytree(killed["folder"], moved["folder"])
        codes, said = start(processes, moved)
        assert codes == [0] * processes, said[-3000:]
        assert losses(moved) == pytest.approx(losses(alone), abs=1e-5)
