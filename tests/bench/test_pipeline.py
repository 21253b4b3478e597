"""The long commands: they reuse what is done, redo what has changed, and end alike however often they are killed."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from bench import ablation, pipeline
from bench.records import Record, read_records, write_records
from methods.base import UserError

# ---- one step at a time, on squares -----------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """Counts the requests that models answer."""
    from methods.internvl.model import InternVLModel

    calls = []
    segment = InternVLModel.segment
    monkeypatch.setattr(
        InternVLModel, "segment", lambda self, *given: calls.append(len(given[0])) or segment(self, *given)
    )
    return calls


def test_everything_is_scored(small, asked):
    records = pipeline.evaluate(small)
    assert records
    assert read_records(small.results_dir / "records" / "scores-val.jsonl") == sorted(
        records, key=lambda r: (*r.key, r.checkpoint, r.value)
    )
    methods = {record.method for record in records}
    assert methods == {"himtok", "argenseg", "baseline:empty", "baseline:full", "baseline:random-object",
                       "baseline:largest-object"}  # fmt: skip
    assert {record.protocol for record in records} == {"per_expression", "per_object_joined", "codec", "breakdown"}
    variants = {record.variant for record in records if record.method == "argenseg" and record.protocol == "codec"}
    assert variants == {f"tokens={n}" for n in (1, 5, 14, 30)}
    own = next(r for r in records if r.method == "himtok")
    assert (own.checkpoint, own.precision, own.backbone) == (
        pipeline.digest(pipeline.model_of_stage(small, "himtok")), "float32", "small"
    )  # fmt: skip
    perfect = next(r for r in records if (r.method, r.metric) == ("baseline:full", "ciou"))
    assert 0 < perfect.value < 0.5


def test_records_of_another_split_stay_until_the_weights_change(small):
    pipeline.evaluate(small)
    folder = small.results_dir / "records"
    val = read_records(folder / "scores-val.jsonl")
    write_records(folder / "scores-testA.jsonl", [replace(record, split="testA") for record in val])
    write_records(folder / "scores-testB.jsonl", [replace(r, split="testB", checkpoint="old") for r in val])
    pipeline.evaluate(small)
    assert {path.name for path in folder.glob("scores-*")} == {"scores-val.jsonl", "scores-testA.jsonl"}


def test_a_second_call_asks_nothing(small, asked):
    first = pipeline.evaluate(small)
    del asked[:]
    assert pipeline.evaluate(small) == first
    assert asked == []


def test_other_weights_are_asked_again(small, asked):
    pipeline.evaluate(small)
    first = (small.runs_dir / "predictions" / "himtok.val.per_expression.jsonl").read_bytes()
    path = pipeline.model_of_stage(small, "himtok")
    method = pipeline.method_class("himtok").from_pretrained(path)
    with torch.no_grad():
        method.backbone.native.lm_head.weight[method.processor.mask_token_offset :] *= -1
    method.save_pretrained(path)
    del asked[:]
    pipeline.evaluate(small)
    assert sum(asked) == 8 + 8  # both protocols of the changed method alone
    assert (small.runs_dir / "predictions" / "himtok.val.per_expression.jsonl").read_bytes() != first


def test_scores_follow_their_predictions(small):
    pipeline.evaluate(small)
    path = small.runs_dir / "scores" / "himtok.val.per_expression.jsonl"
    expected = path.read_bytes()
    path.write_text("{}\n")
    path.with_suffix(".stamp").unlink()
    pipeline.evaluate(small)
    assert path.read_bytes() == expected


@pytest.mark.parametrize(
    ("name", "value"), [("digest", lambda self: "other squares"), ("VERSION", pipeline.VERSION + 1)]
)
def test_scores_follow_the_truth_and_the_metrics(small, squares, monkeypatch, name, value):
    pipeline.evaluate(small)
    path = small.runs_dir / "scores" / "himtok.val.per_expression.jsonl"
    expected, predictions = path.read_bytes(), pipeline.predictions_dir(small) / path.name
    path.write_text("{}\n")  # as made with another truth
    monkeypatch.setattr(type(squares(4)) if name == "digest" else pipeline, name, value)
    pipeline.score(small, predictions, squares(4), {"method": "himtok"})
    assert path.read_bytes() == expected


def test_an_interrupted_evaluation_ends_alike(small, asked, monkeypatch):
    first = pipeline.evaluate(small)
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
            again = pipeline.evaluate(small)
            break
        except Killed:
            kills += 1
    assert kills == 3
    assert again == first


def test_latency_is_measured_once_for_the_same_weights_and_settings(small, asked):
    small.latency.paths = ["fast"]
    first = pipeline.time_methods(small)
    assert {record.method for record in first} == {"himtok", "argenseg"}
    del asked[:]
    again = pipeline.time_methods(small)
    assert sorted(again, key=lambda r: r.key) == sorted(first, key=lambda r: r.key)
    assert asked == []
    small.latency.warmup = 2
    second = pipeline.time_methods(small)
    # two methods: two warm-ups, two passes over two requests, and one request whose work is counted
    assert sum(asked) == 2 * (2 + 2 * 2 + 1)
    assert {record.note for record in second} == {"1 threads, 2 warm-ups"}
    small.latency.requests = 3
    assert {record.n for record in pipeline.time_methods(small)} == {1, 3}  # the counted work is that of one request


@pytest.fixture
def timed(monkeypatch):
    """The methods that are timed, which then takes no time."""
    names = []

    def time_paths(method, requests, config, precision, facts):
        names.append(facts["method"])
        return [Record(metric="latency/total/median_ms", value=1.0, protocol="latency", n=len(requests), **facts)]

    monkeypatch.setattr(pipeline, "time_paths", time_paths)
    monkeypatch.setattr(pipeline, "scale", lambda *_, **facts: [])
    return names


@pytest.mark.parametrize(
    ("key", "value"),
    [("precision", "bfloat16"), ("price", 2.0), ("warmup", 0), ("requests", 3), ("paths", ["fast"]), ("scaling", True)],
)
def test_another_setting_is_timed_anew(small, timed, key, value):
    pipeline.time_methods(small)
    pipeline.time_methods(small)
    assert timed == ["himtok", "argenseg"]
    setattr(small.latency, key, value)
    pipeline.time_methods(small)
    assert timed == ["himtok", "argenseg"] * 2
    small.latency.sizes = ["1b"]  # of random weights, which these are not
    pipeline.time_methods(small)
    assert timed == ["himtok", "argenseg"] * 2


def test_other_data_and_records_without_a_stamp_are_timed_anew(small, timed, squares, monkeypatch):
    first = pipeline.time_methods(small)
    monkeypatch.setattr(type(squares(4)), "digest", lambda self: "circles")
    pipeline.time_methods(small)
    assert timed == ["himtok", "argenseg"] * 2
    path = small.results_dir / "records" / "latency.jsonl"
    assert sorted(read_records(path), key=lambda r: r.key) == sorted(first, key=lambda r: r.key)
    path.with_suffix(".stamp").unlink()
    assert read_records(path.parent) == read_records(path)
    pipeline.time_methods(small)
    assert timed == ["himtok", "argenseg"] * 3


def test_times_on_another_dataset_have_a_file_of_their_own(small, timed):
    pipeline.time_methods(small)
    small.data.dataset = "refcoco"
    assert {record.dataset for record in pipeline.time_methods(small)} == {"refcoco"}
    assert timed == ["himtok", "argenseg"] * 2
    small.data.dataset = "refmoji"
    pipeline.time_methods(small)
    assert timed == ["himtok", "argenseg"] * 2
    folder = small.results_dir / "records"
    assert {path.name for path in folder.glob("*.jsonl")} == {"latency.jsonl", "refcoco.latency.jsonl"}


def test_times_with_scaling_serve_a_run_without(small, timed):
    small.latency.scaling = True
    pipeline.time_methods(small)
    small.latency.scaling = False
    pipeline.time_methods(small)
    assert timed == ["himtok", "argenseg"]


def test_a_method_that_was_timed_before_a_kill_is_not_timed_again(small, timed, monkeypatch):
    whole = pipeline.time_paths

    def killed(method, requests, config, precision, facts):
        if facts["method"] == "argenseg":
            raise KeyboardInterrupt
        return whole(method, requests, config, precision, facts)

    monkeypatch.setattr(pipeline, "time_paths", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.time_methods(small)
    monkeypatch.setattr(pipeline, "time_paths", whole)
    assert {record.method for record in pipeline.time_methods(small)} == {"himtok", "argenseg"}
    assert timed == ["himtok", "argenseg"]


def test_shipped_weights_come_first_and_only_if_wanted(small, monkeypatch):
    monkeypatch.setattr(pipeline, "train", lambda profile, names: pytest.fail("only train and study train"))
    trained = pipeline.model_of_stage(small, "himtok")
    assert pipeline.find_model(small, "himtok") == trained
    shipped = pipeline.ship(small)
    assert shipped == [small.results_dir / "checkpoints" / name for name in ("himtok", "argenseg")]
    assert pipeline.find_model(small, "himtok") == trained
    small.ship = True
    assert pipeline.find_model(small, "himtok") == shipped[0]
    stored = load_file(shipped[0] / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}
    pipeline.ship(small)
    (shipped[0] / "notes.txt").write_text("mine")
    pipeline.shipped_model(small, "himtok").joinpath("model.safetensors").write_bytes(b"mine")
    with pytest.raises(UserError, match="was not written by genseg"):
        pipeline.ship(small)
    assert (shipped[0] / "model.safetensors").read_bytes() == b"mine"
    small.models["boxes"] = "backbone"
    with pytest.raises(UserError, match="no weights of boxes in .*train them with `genseg train backbone`"):
        pipeline.find_model(small, "boxes")
    for command in (pipeline.evaluate, pipeline.time_methods, ablation.ablation):
        with pytest.raises(UserError, match="no weights of boxes"):
            command(small)


@pytest.mark.parametrize(("lines", "kept"), [(0, 0), (1, 1), (200, 200), (201, 101), (900, 180)])
def test_long_logs_ship_with_some_of_their_lines(small, lines, kept):
    log = pipeline.stage_folder(small, "himtok") / "train.jsonl"
    log.write_text("".join(f"{number}\n" for number in range(lines)))
    pipeline.ship(small)
    shipped = (small.results_dir / "logs" / "himtok" / "train.jsonl").read_text().split()
    assert len(shipped) == kept
    assert shipped[:1] == ["0"][:kept]


def test_a_report_keeps_what_stages_scored_unless_their_logs_are_shipped(small):
    for name in ("himtok", "argenseg"):
        (pipeline.stage_folder(small, name) / "validation.jsonl").write_text('{"step": 1}\n')
    logs = small.results_dir / "logs"
    (logs / "argenseg").mkdir(parents=True)
    (logs / "argenseg" / "train.jsonl").write_text("")
    with pytest.raises(UserError, match="no records"):
        pipeline.write_report(small)
    assert not (logs / "himtok").exists()
    write_records(small.results_dir / "records" / "x.jsonl", [Record("himtok", "ciou", 0.5, "refmoji", "val", "codec")])
    pipeline.write_report(small)
    assert [str(path.relative_to(logs)) for path in sorted(logs.rglob("*.jsonl"))] == [
        "argenseg/train.jsonl", "himtok/validation.jsonl",
    ]  # fmt: skip


def test_a_digest_names_weights_and_configuration(small):
    folder = pipeline.model_of_stage(small, "himtok")
    first = pipeline.digest(folder)
    assert len(first) == 16
    method = pipeline.method_class("himtok").from_pretrained(folder)
    shutil.rmtree(folder)
    method.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert pipeline.digest(folder) == first  # however the weights are cut into files
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"decode": "hard"}))
    assert pipeline.digest(folder) != first


def test_an_unknown_stage_is_refused(small):
    with pytest.raises(UserError, match="no stage 'two' in profile small; choose from backbone, tokens"):
        pipeline.train(small, ["himtok", "two"])


def test_the_device_is_named():
    assert pipeline.device_of("cpu") == torch.device("cpu")
    assert pipeline.device_name(torch.device("cpu")).endswith("1 threads")


# ---- the whole way on the embedded dataset ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The embedded dataset: its validation split and a few training scenes."""
    root = tmp_path_factory.mktemp("refmoji")
    pipeline.build("easy", root / "eval", splits=["val"], progress=False)
    pipeline.build("easy", root / "train-6", splits=["train"], train_scenes=6, progress=False)
    return root


def test_reproduce_trains_evaluates_times_and_reports(folder, profile_in, data, monkeypatch, genseg):
    """From nothing to the tables; evaluating and timing again does nothing anew and leaves every byte as it was."""
    real = pipeline.build
    monkeypatch.setattr(
        pipeline,
        "build",
        lambda level, root, splits=None, *given, **words: real(
            level, root, splits or ["val"], *given, **words, progress=False
        ),
    )
    profile = profile_in(data)
    words = [f"profile={folder / 'small.yaml'}", "evaluate.protocols=[per_expression]"]
    result = genseg("reproduce", *words)
    assert result.code == 0, result.err
    assert "himtok" in result.out
    tables = {path.name for path in (profile.results_dir / "tables").glob("*.md")}
    assert {"accuracy.md", "codec.md", "latency.md", "main.md"} <= tables
    figures = {path.name for path in (profile.results_dir / "figures").iterdir()}
    assert "examples.refmoji.val.per_expression.webp" in figures
    records = read_records(profile.results_dir / "records")
    assert {"boxes", "himtok", "argenseg", "baseline:empty"} <= {record.method for record in records}
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for command in ("train", "eval", "latency"):
        assert genseg(command, *words).code == 0
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert before.keys() == after.keys()
    assert [str(path) for path in before if before[path] != after[path]] == []


def test_rules_of_decoding_stand_side_by_side(small):
    small.evaluate.decode_rules, small.evaluate.protocols = ["official", "hard", "expected"], ["per_expression"]
    small.evaluate.temperature = 0.5
    records = [r for r in pipeline.evaluate(small) if (r.protocol, r.metric) == ("per_expression", "ciou")]
    variants = {(r.method, r.variant) for r in records if r.method in small.models}
    named = ("", "rule=hard", "rule=expected, temperature=0.5")
    assert variants == {(method, variant) for method in small.models for variant in named}
    names = {path.name for path in pipeline.predictions_dir(small).glob("himtok.val.*")}
    assert {f"himtok.val.per_expression{rule}.jsonl" for rule in ("", "-hard", "-expected")} <= names


def test_the_sealed_split_is_drawn_from_its_own_seed_in_a_root_of_its_own(profile_in, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(pipeline, "build", lambda *args, **more: built.append((args, more)))
    profile = profile_in(tmp_path / "sealed")
    pipeline.prepare_data(profile, train=False)
    profile.data.test_seed = 7
    pipeline.prepare_data(profile, train=False)
    assert [(args[2], more["seed"]) for args, more in built] == [(None, 0), (["test"], 7)]
