"""Architectures with random weights: built, timed with both backends, recorded and not measured twice."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bench.config import UntrainedConfig, load_profile
from bench.latency import run
from bench.latency.untrained import ANSWER_TEXT, Case, build, cases, requests_of, same_answers
from bench.records import Record
from methods.base import Decoding, UserError
from tests.conftest import ARGENSEG_SIZES, HIMTOK_SIZES, SHORT_SIZES

CPU = torch.device("cpu")
FORCED = Decoding(answer_text="forced")
SMALL = {
    "himtok": UntrainedConfig("himtok", {"mask_tokenizer_config": HIMTOK_SIZES, "vocabulary": 1500}),
    "argenseg": UntrainedConfig("argenseg", {"mask_tokenizer_config": SHORT_SIZES, "vocabulary": 1500, "init": "var"}),
}


@pytest.mark.parametrize("name", SMALL)
def test_both_backends_answer_alike_in_float32(name):
    method = build(SMALL[name], "tiny", CPU, torch.float32)
    requests = requests_of(Case("tiny", name, 1, None), 3)
    assert same_answers(method, requests, ["fast", "official"]) == 1
    answers = [method.segment([request], FORCED)[0] for request in requests]
    assert all(answer.failure is None for answer in answers)
    assert len({number for answer in answers for number in answer.token_ids}) > 3  # the choices are no ties


STARTS = [("himtok", "mean"), ("himtok", "codes"), ("argenseg", "zeros"), ("argenseg", "var"), ("argenseg", "grid")]


@pytest.mark.parametrize(("name", "start"), STARTS)
def test_a_half_precision_model_is_never_held_in_full(name, start):
    method = build(replace(SMALL[name], model=SMALL[name].model | {"init": start}), "tiny", CPU, torch.bfloat16)
    assert {p.dtype for p in method.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in method.mask_tokenizer.parameters()} == {torch.float32}
    assert torch.get_default_dtype() == torch.float32
    answer = method.segment(requests_of(Case("tiny", name, 1, None), 1), FORCED)[0]
    assert len(answer.token_ids) == method.mask_tokenizer.length and answer.failure is None


def test_the_shipped_profile_names_the_cases_that_matter():
    found = cases(load_profile("latency").latency)
    assert len({case.slug for case in found}) == len(found)
    assert {case.size for case in found} == {"1b", "2b", "4b", "8b"}
    himtok = [case for case in found if case.name == "HiMTok" and case.size == "8b"]
    assert {(case.tiles, case.tokens) for case in himtok} == {(t, n) for t in (1, 5) for n in (8, 16, 32)}
    assert len([case for case in found if case.size == "8b"]) == 6 + 2 + 3
    assert [case.size for case in found] == sorted(case.size for case in found)


@pytest.mark.parametrize(("tiles", "side"), [(1, 448), (5, 896), (10, 1344)])
def test_images_have_the_number_of_tiles_that_the_case_says(tiles, side):
    from methods.internvl.tiles import make_tiles

    image = requests_of(Case("8b", "x", tiles, None), 1)[0].image
    assert image.size == (side, side)
    assert len(make_tiles(image, 448, 12)) == tiles


@pytest.fixture
def profile(tmp_path):
    tokenizer = json.dumps(SHORT_SIZES)
    (tmp_path / "p.yaml").write_text(
        "name: p\ndata: {root: none}\n"
        f"results: {tmp_path}/results\nruns: {tmp_path}/runs\n"
        "latency:\n  warmup: 0\n  requests: 2\n  threads: 1\n  sizes: [tiny]\n"
        f"  untrained: {{short: {{method: argenseg, model: {{init: var, vocabulary: 1500, "
        f"mask_tokenizer_config: {tokenizer}}}}}}}\n"
    )
    return load_profile(tmp_path / "p.yaml")


def test_a_case_is_timed_once_with_both_backends(profile, monkeypatch):
    records = run.time_untrained(profile)
    path = profile.results_dir / "records" / "latency-tiny-short-1.jsonl"
    assert path.exists()
    assert {r.backend for r in records} == {"fast", "official"}
    assert all(r.variant == {"model": "short", "backbone": "tiny", "tiles": 1} for r in records)
    assert all("random weights" in r.note and r.backbone == "tiny" for r in records)
    metrics = {(r.stage, r.metric) for r in records}
    assert {
        ("total", "median_ms"),
        ("mask", "floor_ms"),
        ("step 04", "floor_ms"),
        ("", "peak_mib"),
    } <= metrics
    assert not [metric for _, metric in metrics if "p99" in metric]  # too few requests
    monkeypatch.setattr("bench.latency.untrained.build", lambda *_: pytest.fail("built again"))
    assert {r.key for r in run.time_untrained(profile)} == {r.key for r in records}


def test_a_case_is_timed_anew_with_other_settings_of_its_own_alone(profile, monkeypatch):
    built = []
    model = SimpleNamespace(mask_tokenizer=SimpleNamespace(length=30))
    monkeypatch.setattr("bench.latency.untrained.build", lambda entry, *_: built.append(entry.method) or model)
    monkeypatch.setattr(run, "provenance", lambda *_: {})
    record = Record("m", "median_ms", 1.0, "noise", "", "latency")
    monkeypatch.setattr(run, "time_backends", lambda *_, **__: [record])
    monkeypatch.setattr(run, "scale", lambda *_, **__: [])

    def timed():
        del built[:]
        run.time_untrained(profile)
        return list(built)

    assert (timed(), timed()) == (["argenseg"], [])
    profile.latency.untrained["other"] = UntrainedConfig("himtok", tokens=[8])
    assert timed() == ["himtok"]
    del profile.latency.untrained["other"]
    settings = {
        "precision": "bfloat16",
        "warmup": 1,
        "backends": ["fast"],
        "price": 3.0,
        "requests": 3,
        "scaling": True,
    }
    for key, value in settings.items():
        setattr(profile.latency, key, value)
        assert (timed(), timed()) == (["argenseg"], [])
    profile.latency.untrained["short"].model["mask_tokenizer_config"]["width"] = 8
    assert timed() == ["argenseg"]
    (profile.results_dir / "records" / "latency-tiny-short-1.stamp").unlink()
    assert (timed(), timed()) == (["argenseg"], [])


def test_tiles_of_a_size_that_has_none_are_left_out(profile, capsys):
    profile.latency.tiles = [5]
    assert run.time_untrained(profile) == []
    assert (
        "model=short, backbone=tiny, tiles=5: this size cuts no image into tiles; left out." in capsys.readouterr().err
    )


@pytest.mark.parametrize("key", ["latency.tiles", "latency.untrained.HiMTok.tiles"])
def test_numbers_of_tiles_that_no_square_image_has_are_refused(key):
    for tiles in ("[2]", "[1,3]", "[4]", "[0]", "[17]"):
        with pytest.raises(UserError, match=rf"{key} is .*, but must be one of 1, 5, 10"):
            load_profile("latency", [f"{key}={tiles}"])
    assert load_profile("latency", [f"{key}=[1,5,10]"])


def test_unknown_backends_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"latency.backends is .*, but must be one of"):
        load_profile("latency", ["latency.backends=[slow]"])


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_backend_answers_alike_at_a_real_size(name):
    """1B with random weights in float32 and small mask tokenizers: about 5 GB, some minutes on a core."""
    parts = {
        "himtok": {"mask_tokenizer_config": HIMTOK_SIZES},
        "argenseg": {"mask_tokenizer_config": ARGENSEG_SIZES, "init": "var"},
    }[name]
    method = build(UntrainedConfig(name, parts), "1b", CPU, torch.float32)
    requests = requests_of(Case("1b", name, 1, None), 1)  # its words are forced: a random model would say others
    found = [method.segment(requests, Decoding(way, ANSWER_TEXT))[0] for way in ("fast", "cuda_graphs", "official")]
    assert found[0].token_ids == found[1].token_ids == found[2].token_ids
    assert found[0].failure is None and len(found[0].token_ids) == (32 if name == "himtok" else 680)
    assert len(set(found[0].token_ids)) > 1  # no ties: those fall on the first; but a random model repeats itself
