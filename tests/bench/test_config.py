"""Profiles: everything that is wrong in one is a sentence with the file and the key."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.config import PROFILES, Profile, load_profile, resolved
from methods.base import UserError

TEXT = """
name: small
data: {root: data/x}
stages:
  base: {method: boxes, stage: pretrain, steps: 5, tasks: {box: 1.0}}
  mask: {method: himtok, stage: align, steps: 5, model: {backbone: "stage:base"}}
models: {himtok: mask}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    return path


def refusal(path, overrides=()) -> str:
    with pytest.raises(UserError) as caught:
        load_profile(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_values_of_the_file_stand_over_the_defaults(path):
    profile = load_profile(path)
    assert isinstance(profile, Profile)
    assert (profile.name, profile.stages["base"].steps, profile.stages["base"].lr) == ("small", 5, 1e-3)
    assert profile.runs_dir == Path("runs/small")
    assert profile.results_dir == Path("results/small")


def test_overrides_stand_over_the_file(path):
    profile = load_profile(path, ["seed=3", "stages.base.steps=9", "stages.mask.model.init=codes", "data.root=/x y",
                                  "stages.base.betas=[0.8,0.99]", "evaluate.splits=[val,testA]"])  # fmt: skip
    assert (profile.seed, profile.stages["base"].steps, profile.data.root) == (3, 9, "/x y")
    assert profile.stages["mask"].model == {"backbone": "stage:base", "init": "codes"}
    assert profile.stages["base"].betas == [0.8, 0.99]
    assert profile.evaluate.splits == ["val", "testA"]


@pytest.mark.parametrize("name", sorted(p.stem for p in PROFILES.glob("*.yaml")))
def test_every_shipped_profile_is_valid_and_comes_back_whole(name, tmp_path):
    profile = load_profile(name)
    assert profile.name == name
    (tmp_path / "again.yaml").write_text(resolved(profile))
    assert load_profile(tmp_path / "again.yaml") == profile


def test_the_resolved_text_is_the_profile(path, tmp_path):
    profile = load_profile(path, ["seed=7", "evaluate.batch=3"])
    (tmp_path / "again.yaml").write_text(resolved(profile))
    again = load_profile(tmp_path / "again.yaml")
    assert again == profile
    assert resolved(again) == resolved(profile)


def test_an_unknown_profile_is_refused_with_the_known_ones(tmp_path):
    assert "'huge'" in refusal("huge")
    assert "nano" in refusal("zzz")
    assert "did you mean 'nano'?" in refusal("nanno")
    assert "none.yaml" in refusal(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("speed=9", "speed"),
        ("train.speed=9", "speed"),
        ("stages.base.speed=9", "speed"),
        ("seed=many", "many"),
        ("train.threads=two", "two"),
        ("evaluate.splits=val", "val"),
        ("train=3", "train is '3'"),
        ("runs=${nowhere}", "nowhere"),
        ("stages.new.method=himtok", "stage"),
    ],
)
def test_a_wrong_override_is_named(path, override, named):
    message = refusal(path, [override])
    assert named in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("name: small", "colour: red\nname: small", "colour"),
        ("steps: 5, tasks", "steps: five, tasks", "five"),
        ("method: boxes, ", "", "method"),
        ("data: {root: data/x}", "data: {level: easy}", "root"),
        ("name: small", "", "name"),
        ("himtok: mask", "himtok: mask2", "mask2"),
        ("stage:base", "stage:bass", "bass"),
        ("name: small", "name: [", "small.yaml"),
        ("name: small", "name: small\nname: other", "name"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(path, old, new, named):
    assert old in TEXT
    path.write_text(TEXT.replace(old, new, 1))
    message = refusal(path)
    assert named in message
    assert str(path) in message


def test_a_profile_says_only_what_its_base_does_not(path):
    above = path.with_name("longer.yaml")
    above.write_text("base: small\nname: longer\nstages:\n  mask: {steps: 50, model: {init: codes}}\n")
    profile = load_profile(above, ["stages.base.steps=7"])
    assert (profile.name, profile.runs, profile.stages["base"].steps) == ("longer", "runs/longer", 7)
    assert profile.stages["mask"].steps == 50
    assert profile.stages["mask"].model == {"backbone": "stage:base", "init": "codes"}
    assert profile.models == {"himtok": "mask"}


def test_a_shipped_profile_can_be_the_base_of_one_with_its_name(tmp_path):
    (tmp_path / "smoke.yaml").write_text("base: smoke\ndata: {train_scenes: 7}\n")
    assert load_profile(tmp_path / "smoke.yaml").data.train_scenes == 7


@pytest.mark.parametrize(("name", "base"), [("one", "nowhere"), ("one", "two"), ("two", "one"), ("one", "3")])
def test_a_base_that_is_missing_or_in_a_circle_is_refused(tmp_path, name, base):
    (tmp_path / "one.yaml").write_text(f"base: {base}\n" + TEXT)
    (tmp_path / "two.yaml").write_text("base: one\n")
    assert "base" in refusal(tmp_path / f"{name}.yaml")


@pytest.mark.parametrize("content", [b"", b"- a\n- b\n", b"just text", b"\xff\xfe\x00", b"\t", b"{", b"3"])
def test_a_file_that_is_no_profile_is_named(path, content):
    path.write_bytes(content)
    assert str(path) in refusal(path)


@pytest.mark.parametrize(
    "override",
    ["evaluate.batch=-1", "evaluate.splits=[]", "evaluate.splits=[val,val]", "evaluate.protocols=[]",
     "train.threads=0", "train.log_every=0", "stages.base.steps=0", "stages.base.images_per_step=0",
     "stages.base.expressions_per_image=-1", "latency.requests=0", "evaluate.threads=-2", "latency.threads=0",
     "evaluate.limit=-1", "stages.base.betas=[0.9]", "seed=-1", "data.seed=-1", "stages.base.seed=-1",
     "stages.base.lr=-1", "stages.base.lr=nan", "stages.base.clip=inf", "stages.base.betas=[0.9,1]",
     "seed=" + "9" * 5000,
     "train.threads=100000", "train.loss_spike_factor=nan", "stages.base.decay_ratio=2", "train.zero=4",
     "evaluate.precision=half",
     "stages.base.schedule=cosin", "latency.tiles=[2]", "latency.backends=[fats]", "stages.base.tasks.box=-1",
     "evaluate.seed=-3", "train.validate_samples=-1", "stages.base.validate_every=-1", "latency.price=-0.5"],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused(path, override):
    assert override.split("=")[0] in refusal(path, [override])


@pytest.mark.parametrize("name", ["up/down", "../up", "..", "a\\\\b", ".", ""])
def test_a_stage_that_cannot_be_a_folder_is_refused(path, name):
    path.write_text(TEXT.replace("  base:", f'  "{name}":').replace("stage:base", f"stage:{name}"))
    assert "gives its folder that name" in refusal(path)


def test_an_order_of_a_method_without_a_model_is_refused(path):
    assert "ablation.decoding_orders.a is of 'other'" in refusal(path, ["ablation.decoding_orders.a.method=other"])


@pytest.mark.parametrize("chain", [["stages.base.model.start=stage:base"], ["stages.base.model.start=stage:mask"]])
def test_stages_that_build_on_each_other_are_refused(path, chain):
    assert "base" in refusal(path, chain)


words = st.text("abst.=${}[]:,'\"# 0x1-\\", max_size=12)


@settings(max_examples=60, deadline=None)
@example("", "${seed}")
@example("seed", "${seed}")
@example("name", "${oc.env:NOPE}")
@example("a[0]", "1")
@given(st.one_of(words, st.sampled_from(["name", "seed", "stages.base", "data.root", "train", "models"])), words)
def test_any_override_is_taken_or_refused_with_a_sentence(tmp_path_factory, key, value):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(TEXT)
    try:
        assert isinstance(load_profile(path, [f"{key}={value}"]), Profile)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("text", ["2026_11_30", "1e3", "007", "no", "12:30:00", "/data/set #2", "1_000", "~", "a: b",
                                  "[x", "", "null", "0x10", ".5", "'q'", "2026-11-30", "caf\u00e9"])  # fmt: skip
def test_text_stays_the_text_that_was_written(path, text):
    profile = load_profile(path, [f"train.wandb={text}", f"data.level={text}", f"models.himtok={'mask'}"])
    assert (profile.train.wandb, profile.data.level) == (text, text)


@pytest.mark.parametrize("text", ["2026_11_30", "1e3", "007", "no", "12:30:00", "1_000", "0x10", ".5", "2026-11-30"])
def test_text_in_a_file_stays_the_text_that_was_written(path, tmp_path, text):
    path.write_text(TEXT + f"runs: {text}\nevaluate: {{splits: [{text}]}}\n")
    profile = load_profile(path)
    assert (profile.runs, profile.evaluate.splits) == (text, [text])
    (tmp_path / "again.yaml").write_text(resolved(profile))
    assert load_profile(tmp_path / "again.yaml") == profile


def test_where_anything_is_allowed_only_plain_numbers_are_numbers(path):
    words = {"a": "1e-3", "b": "7", "c": "true", "d": "2026_11_30", "e": "no", "f": "007", "g": "[1, x]", "h": "'1'"}
    profile = load_profile(path, [f"stages.mask.lora.{key}={text}" for key, text in words.items()])
    assert profile.stages["mask"].lora == {
        "a": 1e-3, "b": 7, "c": True, "d": "2026_11_30", "e": "no", "f": "007",
        "g": [1, "x"], "h": "1",
    }  # fmt: skip


def test_a_leading_tilde_in_a_path_is_the_home(path, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    profile = load_profile(path, ["runs=~/r", "data.root=~", "data.images=a~b", "stages.mask.model.backbone=~/w"])
    assert (profile.runs, profile.data.root, profile.data.images) == ("/somewhere/r", "/somewhere", "a~b")
    assert profile.stages["mask"].model["backbone"] == "/somewhere/w"


def test_a_name_with_dots_is_one_key_of_a_mapping_of_numbers(path):
    profile = load_profile(path, ["stages.base.lr_scale.model.layers.0=0.1"])
    assert profile.stages["base"].lr_scale == {"model.layers.0": 0.1}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("steps: 5, tasks", "stpes: 5, tasks", "line 5: unknown key 'stpes' in stages.base; did you mean 'steps'?"),
        ("models:", "modles:", "line 7: unknown key 'modles'; did you mean 'models'?"),
        ("data: {root", "data: {root: a, root", "line 3: the key 'root' stands there twice"),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest(path, old, new, told):
    path.write_text(TEXT.replace(old, new, 1))
    assert told in refusal(path)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("stages.mask.model.hierarhy={levels: 1}", "unknown field 'hierarhy' (did you mean 'hierarchy'?)"),
        ("stages.mask.model.hierarchy={levls: 1}", "unknown field 'levls' (did you mean 'levels'?)"),
        ("stages.mask.model.hierarchy={levels: -1}", "levels is -1, but must be a number of at least 0"),
        ("stages.mask.model.blance=octaves", "stages.mask.model: unknown field 'blance' (known are adaptive_length,"),
        ("stages.mask.model.start=folder", "backbone is for a new model, but folder is continued"),
        ("stages.mask.stage=tunne", "unknown stage 'tunne' of himtok in stages.mask; did you mean 'tune'?"),
        ("stages.mask.method=himtk", "unknown method 'himtk' in stages.mask; did you mean 'himtok'?"),
        ("stages.mask.tasks={segmnt: 1}", "unknown task 'segmnt' in stages.mask.tasks; did you mean 'segment'?"),
        ("stages.mask.weights={hierrchy: 1}", "unknown loss 'hierrchy' in stages.mask.weights; did you mean"),
        ("evaluate.protocols=[per_objct]", "did you mean 'per_object_joined'?"),
        ("models.himtk=mask", "unknown method 'himtk' in models; did you mean 'himtok'?"),
        ("models.himtok=msk", "unknown stage 'msk' in models.himtok; did you mean 'mask'?"),
        ("models.argenseg=mask", "models.argenseg is mask, a stage of himtok"),
        ("latency.untrained.x={method: himtok, model: {int: codes}}", "unknown field 'int' (did you mean 'init'?)"),
        ("latency.sizes=[9b]", "must be one of tiny, nano"),
    ],
)
def test_what_no_method_declares_is_refused_when_the_profile_is_read(path, override, complaint):
    assert complaint in refusal(path, [override])


def test_the_file_of_a_misspelt_task_is_named(path):
    path.write_text(TEXT.replace("box: 1.0", "bx: 1.0"))
    assert refusal(path) == f"{path}: unknown task 'bx' in stages.base.tasks; did you mean 'box'?"
