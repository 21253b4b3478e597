"""`genseg eval` reuses what is done, redoes what has changed, and ends alike however often it is killed."""

import shutil
from dataclasses import replace

import pytest
import torch

from bench.evaluate import run
from bench.records import describe, read_records, write_records
from bench.runtime import digest
from bench.train.folders import model_of_stage
from bench.train.models import find_models
from methods.registry import method_class


def test_everything_is_scored(small, asked):
    records = run.evaluate(small, find_models(small))
    assert records
    assert read_records(small.results_dir / "records" / "scores-val.jsonl") == sorted(
        records, key=lambda r: (*r.key, r.checkpoint, r.value)
    )
    methods = {record.method for record in records}
    assert methods == {"himtok", "argenseg", "baseline:empty", "baseline:full", "baseline:random-object",
                       "baseline:largest-object"}  # fmt: skip
    assert {record.kind for record in records} == {"score", "reconstruction", "breakdown", "difference"}
    gaps = [record for record in records if record.kind == "difference"]
    assert {(r.method, r.against["method"], r.protocol) for r in gaps} == {
        ("himtok", "argenseg", "per_expression"), ("himtok", "argenseg", "per_object_joined")
    }  # fmt: skip
    of = {(r.method, r.protocol): r.value for r in records if r.metric == "ciou" and r.kind == "score"}
    for gap in (r for r in gaps if r.metric == "ciou"):
        assert gap.value == pytest.approx(of["himtok", gap.protocol] - of["argenseg", gap.protocol])
    assert {record.protocol for record in records} == {"per_expression", "per_object_joined", ""}
    lengths = {record.tokens for record in records if (record.method, record.kind) == ("argenseg", "reconstruction")}
    assert lengths == {None, 1, 5, 14, 30}  # None: the resize bound
    own = next(r for r in records if r.method == "himtok")
    assert (own.checkpoint, own.precision, own.backbone) == (
        digest(model_of_stage(small, "himtok")), "float32", "small"
    )  # fmt: skip
    perfect = next(r for r in records if (r.method, r.metric) == ("baseline:full", "ciou"))
    assert 0 < perfect.value < 0.5


def test_records_of_another_split_stay_until_the_weights_change(small):
    run.evaluate(small, find_models(small))
    folder = small.results_dir / "records"
    val = read_records(folder / "scores-val.jsonl")
    write_records(folder / "scores-testA.jsonl", [replace(record, split="testA") for record in val])
    write_records(folder / "scores-testB.jsonl", [replace(r, split="testB", checkpoint="old") for r in val])
    run.evaluate(small, find_models(small))
    assert {path.name for path in folder.glob("scores-*")} == {"scores-val.jsonl", "scores-testA.jsonl"}


def test_a_second_call_asks_nothing(small, asked):
    first = run.evaluate(small, find_models(small))
    del asked[:]
    assert run.evaluate(small, find_models(small)) == first
    assert asked == []


def test_other_weights_are_asked_again(small, asked):
    run.evaluate(small, find_models(small))
    first = (small.runs_dir / "predictions" / "himtok.val.per_expression.jsonl").read_bytes()
    path = model_of_stage(small, "himtok")
    method = method_class("himtok").from_pretrained(path)
    with torch.no_grad():
        method.backbone.native.lm_head.weight[method.processor.mask_token_offset :] *= -1
    shutil.rmtree(path)
    method.save_pretrained(path)
    del asked[:]
    run.evaluate(small, find_models(small))
    assert sum(asked) == 8 + 8  # both protocols of the changed method alone
    assert (small.runs_dir / "predictions" / "himtok.val.per_expression.jsonl").read_bytes() != first


def test_scores_follow_their_predictions(small):
    run.evaluate(small, find_models(small))
    path = small.runs_dir / "scores" / "himtok.val.per_expression.jsonl"
    expected = path.read_bytes()
    path.write_text('{"intersection": 0}\n')
    path.with_suffix(".stamp").unlink()
    run.evaluate(small, find_models(small))
    assert path.read_bytes() == expected


@pytest.mark.parametrize(("name", "value"), [("digest", lambda self: "other squares"), ("VERSION", run.VERSION + 1)])
def test_scores_follow_the_truth_and_the_metrics(small, squares, monkeypatch, name, value):
    run.evaluate(small, find_models(small))
    path = small.runs_dir / "scores" / "himtok.val.per_expression.jsonl"
    expected, predictions = path.read_bytes(), run.predictions_dir(small) / path.name
    path.write_text('{"intersection": 0}\n')  # as made with another truth
    monkeypatch.setattr(type(squares(4)) if name == "digest" else run, name, value)
    run.score(small, predictions, squares(4), {"method": "himtok"})
    assert path.read_bytes() == expected


@pytest.mark.slow
def test_an_interrupted_evaluation_ends_alike(small, asked, monkeypatch):
    first = run.evaluate(small, find_models(small))
    for name in ("predictions", "scores"):
        for path in (small.runs_dir / name).rglob("*.*"):
            path.unlink()

    class Killed(BaseException):
        pass

    calls, answer = [], asked.append

    class Deadly(list):
        def append(self, count):
            calls.append(count)
            answer(count)
            if len(calls) in (2, 5, 9):
                raise Killed

    from methods.internvl.model import InternVLModel

    segment, deadly = InternVLModel.segment, Deadly()
    monkeypatch.setattr(
        InternVLModel, "segment", lambda self, *given: deadly.append(len(given[0])) or segment(self, *given)
    )
    kills = 0
    while True:
        try:
            again = run.evaluate(small, find_models(small))
            break
        except Killed:
            kills += 1
    assert kills == 3
    assert again == first


def test_rules_of_decoding_stand_side_by_side(small):
    small.evaluate.decode_rules, small.evaluate.protocols = ["official", "hard", "expected"], ["per_expression"]
    small.evaluate.temperature = 0.5
    records = [r for r in run.evaluate(small, find_models(small)) if (r.kind, r.metric) == ("score", "ciou")]
    variants = {(r.method, describe(r.variant)) for r in records if r.method in small.models}
    named = ("", "rule=hard", "rule=expected, temperature=0.5")
    assert variants == {(method, variant) for method in small.models for variant in named}
    names = {path.name for path in run.predictions_dir(small).glob("himtok.val.*")}
    assert {f"himtok.val.per_expression{rule}.jsonl" for rule in ("", "-hard", "-expected")} <= names
