"""Several datasets in one profile: each with its own settings, in one run, no method asked what it cannot answer."""

import pytest

from bench.config import load_profile
from bench.data.readers.places import NotThere
from bench.data.splits import benchmarks_of, own_benchmark
from bench.distributed import SINGLE_PROCESS
from bench.evaluate.run import _opened, protocols_of
from methods.base import UserError


def profile_with(datasets, *words):
    return load_profile("checkpoint", ["data.root=d", "data.images=d/coco", f"evaluate.datasets={datasets}", *words])


def test_a_profile_without_datasets_has_its_own():
    profile = load_profile("checkpoint", ["data.root=d"])
    (only,) = benchmarks_of(profile)
    assert only == own_benchmark(profile)
    assert (only.dataset, str(only.root), only.settings) == ("refcoco", "d", profile.evaluate)


def test_what_a_benchmark_does_not_say_is_the_profiles():
    first, second, third = benchmarks_of(
        profile_with(
            "{refcoco: {splits: [testA, testB], limit: 5}, reasonseg: {root: r, protocols: [shared]}, "
            "other: {dataset: refcocog, split_by: google, batch: 2, options: {limit: 9}}}",
            "data.split_by=google",
            "evaluate.limit=3",
        )
    )
    assert (first.images, first.split_by, first.settings.splits) == ("d/coco", "google", ["testA", "testB"])
    assert (first.settings.limit, second.settings.limit) == (5, 3)
    assert (str(second.root), second.images, second.split_by) == ("r", "", "")
    assert (second.settings.protocols, third.settings.protocols) == (["shared"], ["official"])
    assert (third.label, third.place("val"), third.settings.batch) == ("refcocog-google", "refcocog-google.val", 2)
    assert third.where == {"images": "d/coco", "split_by": "google", "limit": 9}


@pytest.mark.parametrize(
    ("datasets", "complaint"),
    [
        ("{refcoco: {splits: [test]}}", "refcoco has no split 'test'; choose from train, val, testA, testB"),
        ("{refcocoo: {}}", "There is no dataset 'refcocoo'"),
        ("{refcoco: {}, again: {dataset: refcoco}}", "refcoco val is named twice"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(datasets, complaint):
    with pytest.raises(UserError, match=complaint):
        benchmarks_of(profile_with(datasets))


def test_a_method_is_asked_what_it_can_answer():
    both, reason, perceive = benchmarks_of(
        profile_with("{refcoco: {protocols: [official, shared]}, reasonseg: {protocols: [official, shared]}, "
                     "mask-perception: {splits: [test]}}")
    )  # fmt: skip
    models = ["himtok", "argenseg"]
    assert protocols_of(both, "segment", ("mask",), models) == dict.fromkeys(models, ["official", "shared"])
    told = protocols_of(reason, "reason", ("mask",), models)
    assert told == {"himtok": ["official", "shared"], "argenseg": ["shared"]}
    assert protocols_of(perceive, "perceive", ("text",), models) == {"himtok": ["official"]}
    with pytest.raises(UserError, match="Protocol official of argenseg has no task 'perceive'"):
        protocols_of(perceive, "perceive", ("text",), ["argenseg"])
    assert protocols_of(perceive, "perceive", ("text",), ["argenseg"], alone=False) == {}
    (shared,) = benchmarks_of(profile_with("{refcoco: {protocols: [shared]}}"))
    assert protocols_of(shared, "segment", ("choice",), models) == {"himtok": ["shared"]}
    with pytest.raises(UserError, match="argenseg answers with mask or box or text, but choice is asked for"):
        protocols_of(shared, "segment", ("choice",), ["argenseg"])


def test_what_is_not_on_this_disk_is_left_out_if_the_profile_says_so(easy_root, tmp_path, capsys):
    (tmp_path / "eval").symlink_to(easy_root)
    datasets = f"{{refmoji: {{}}, refcoco: {{root: {tmp_path}}}}}"
    words = [f"data.root={tmp_path}", "data.images=", "data.dataset=refmoji", "evaluate.protocols=[per_expression]"]
    with pytest.raises(NotThere, match="has no refcoco val"):
        _opened(profile_with(datasets, *words), SINGLE_PROCESS)
    profile = profile_with(datasets, *words, "data.skip_missing=true")
    ((benchmark, dataset),) = _opened(profile, SINGLE_PROCESS)
    assert (benchmark.dataset, dataset.split) == ("refmoji", "val")
    assert "Left out: " in capsys.readouterr().err
    with pytest.raises(NotThere):
        _opened(profile_with(f"{{refcoco: {{root: {tmp_path}}}}}", "data.skip_missing=true"), SINGLE_PROCESS)
