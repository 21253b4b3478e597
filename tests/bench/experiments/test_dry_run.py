"""`--dry-run` on a machine that has nothing, and its parts: one list, one sentence, exit code 2, no weight loaded."""

import pytest

from bench.config import load_profile
from bench.data.splits import benchmarks_of
from bench.evaluate.plan import questions_in
from bench.experiments.dry_run import dry_run, models_of, splits_of
from methods.base import UserError


@pytest.fixture
def nowhere(tmp_path):
    """Settings of compare-8b for folders that do not exist; tiny models, so that the estimate takes no time."""
    return [f"weights={tmp_path / 'weights'}", f"data.root={tmp_path / 'data'}", "size=tiny"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["eval", "reproduce"])
def test_a_machine_that_has_nothing_is_told_what_it_needs(nowhere, genseg, command, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)  # the terminal's width would break lines
    result = genseg(command, "profile=compare-8b", *nowhere, "--dry-run")
    assert result.code == 2
    assert "28 of 28 things that compare-8b needs are missing or wrong: himtok (" in result.err
    for source in ("yayafengzi/InternVL2_5-HiMTok-8B", "inclusionAI/ARGenSeg-8B", "vae_ch160v4096z32.pth of",
                   "refcoco.zip of the REFER release", "ReasonSeg.zip", "train2014.zip of COCO"):  # fmt: skip
        assert source in result.out
    assert "7,622" in result.out and "and more" in result.out  # questions by the cards' counts
    assert "Estimates, not measurements." in result.out
    assert "Traceback" not in result.err


def test_stages_are_trained_by_reproduce_alone(tmp_path):
    words = [f"runs={tmp_path}", f"results={tmp_path / 'results'}", f"data.root={tmp_path / 'data'}"]
    profile = load_profile("smoke", words)
    states = {trains: models_of(profile, "himtok", trains)[0].state for trains in (True, False)}
    assert states == {True: "to be trained", False: "missing"}
    (split,) = splits_of(profile, benchmarks_of(profile)[0])
    assert split.status.state == "to be built"


def test_a_checkpoint_that_is_another_methods_is_wrong(build, tmp_path):
    build("himtok").save_pretrained(tmp_path / "model")
    profile = load_profile("checkpoint", [f"data.root={tmp_path}", f"models.argenseg={tmp_path / 'model'}"])
    (part,) = models_of(profile, "argenseg", trains=False)
    assert part.state == "wrong" and "holds a model of himtok, not of argenseg" in part.notes
    good = load_profile("checkpoint", [f"data.root={tmp_path}", f"models.himtok={tmp_path / 'model'}"])
    (part,) = models_of(good, "himtok", trains=False)
    assert part.state == "found" and part.size > 10**5
    with pytest.raises(UserError, match="1 of 2 things that checkpoint needs are missing or wrong: refcoco val"):
        dry_run(good)


@pytest.mark.parametrize(
    ("counts", "sentences", "limit", "expected"),
    [
        ({"referents": 3, "expressions": 8}, "joined", 0, 3),
        ({"referents": 3, "expressions": 8}, "first", 2, 2),
        ({"referents": 3, "expressions": 8}, "each", 0, 8),
        ({"expressions": 8}, "joined", 0, 8),
        ({"referents": 3}, "per_expression", 0, 3),
        ({"images": 3}, "joined", 5, None),
    ],
)
def test_questions_are_counted_without_the_data(counts, sentences, limit, expected):
    assert questions_in(counts, sentences, limit) == expected
