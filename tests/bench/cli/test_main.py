"""The command line: help, and one sentence with exit code 2 for everything that cannot be done."""

import errno
import os
import subprocess
import sys

import pytest
import yaml

from bench import cli
from bench.cli.words import split_profile
from bench.config import load_profile

PROFILE_COMMANDS = ("reproduce", "study", "train", "plan", "eval", "ablation", "latency", "report")
PROFILE = """
name: small
data: {root: data}
runs: runs
results: results
stages:
  one: {method: boxes, stage: pretrain, steps: 2, tasks: {box: 1.0}, model: {size: tiny}}
models: {boxes: one}
"""


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """The path of a small valid profile, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(PROFILE)
    return path


def refused(result) -> str:
    """The complaint of a refused command: one line on stderr after what the profile printed, and exit code 2."""
    assert result.code == 2
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if line.startswith("genseg: ")]
    assert len(lines) == 1
    assert result.err.endswith(f"{lines[0]}\n")
    return lines[0]


def only_line(result) -> str:
    line = refused(result)
    assert result.err == f"{line}\n"
    return line


MORE = ("generate", "convert", "score", "compare", "import-lmms", "parity", "doctor")


def test_help_names_every_command(genseg):
    result = genseg("-h")
    assert (result.code, result.err) == (0, "")
    for name in [*PROFILE_COMMANDS, "data", "segment", *MORE]:
        assert name in result.out


@pytest.mark.parametrize("command", [*PROFILE_COMMANDS, "data", "segment", *MORE])
def test_every_command_has_help(genseg, command):
    result = genseg(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert f"usage: genseg {command}" in result.out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "COMMAND"),
        (("fly",), "'fly'"),
        (("segment",), "image"),
        (("segment", "a.png"), "expression"),
        (("segment", "a.png", "it", "extra"), "'extra'"),
        (("report", "--quick"), "'--quick'"),
        (("report", "quick"), "'quick'"),
        (("data",), "action"),
        (("data", "burn"), "'burn'"),
        (("doctor", "speed=1"), "'speed'"),
        (("parity",), "folder"),
        (("parity", ".", "speed=1"), "'speed'"),
    ],
)
def test_commands_that_make_no_sense(genseg, words, named):
    assert named in only_line(genseg(*words))


@pytest.mark.parametrize("command", [*PROFILE_COMMANDS, "segment"])
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["profile=nowhere"], "'nowhere'"),
        (["profile=none.yaml"], "'none.yaml'"),
        (["profile={}", "speed=9"], "speed"),
        (["profile={}", "evaluate.batch=-1"], "evaluate.batch is -1"),
        (["profile={}", "seed=x"], "'x'"),
    ],
)
def test_wrong_profiles_and_overrides(genseg, profile, command, words, named):
    extra = ["a.png", "it"] if command == "segment" else []
    assert named in only_line(genseg(command, *extra, *(word.format(profile) for word in words)))


def test_a_stage_that_the_profile_lacks_is_named_before_any_work(genseg, profile, tmp_path):
    line = refused(genseg("train", "two", f"profile={profile}"))
    assert "'two'" in line
    assert "one" in line
    assert list(tmp_path.iterdir()) == [profile]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("check", "root=none"), "none: no finished RefMoji"),
        (("show", "root=none"), "none"),
        (("build", "root=data", "level=brutal"), "brutal"),
        (("build", "root=data", "workers=many"), "workers is 'many'"),
        (("build", "root=data", "splits=train"), "train_scenes"),
        (("build", "root=data", "splits=valid"), "'valid'"),
        (("build", "root=data", "sped=1"), "'sped'"),
        (("check", "root=none", "split=val"), "'split'"),
        (("show", "root=none", "count=-1"), "count is '-1'"),
    ],
)
def test_wrong_settings_of_data(genseg, tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    assert named in only_line(genseg("data", *words))
    assert list(tmp_path.iterdir()) == []


def test_the_list_of_datasets(genseg):
    result = genseg("data", "list")
    assert result.code == 0
    assert "refmoji" in result.out


def test_parity_has_an_exit_code_of_its_own(genseg, goldens, tmp_path):
    assert genseg("parity", goldens / "metrics").code == 0
    assert "no reference vectors" in only_line(genseg("parity", tmp_path / "none"))
    (tmp_path / "metrics.json").write_text('{"pairs": ')
    assert "not a JSON file" in only_line(genseg("parity", tmp_path))
    text = (goldens / "metrics" / "metrics.json").read_text().replace('"intersection": ', '"intersection": 1', 1)
    (tmp_path / "metrics.json").write_text(text)
    assert genseg("parity", tmp_path).code == 1


def test_the_resolved_profile_is_shown_before_the_work(genseg, profile, monkeypatch):
    seen = []
    monkeypatch.setattr("bench.report.run.write_report", lambda profile, strips=False: seen.append(profile))
    result = genseg("report", f"profile={profile}", "seed=5")
    assert result.code == 0
    assert result.err.startswith("# genseg report\n")
    assert "seed: 5" in result.err
    assert seen == [load_profile(profile, ["seed=5"])]


STEPS = {
    "reproduce": ["train", "evaluate", "time", "report"],
    "study": ["train", "bundle", "train", "evaluate", "time", "report"],
    "train": ["train"], "plan": ["plan"], "eval": ["evaluate"], "ablation": ["ablate", "report"], "latency": ["time"],
    "report": ["report"],
}  # fmt: skip
PLACES = {
    "train": "train.run.train", "bundle": "train.models.bundle", "evaluate": "evaluate.run.evaluate",
    "plan": "train.cost_estimate.print_plan",
    "time": "latency.run.time_models", "ablate": "experiments.ablation.ablation", "report": "report.run.write_report",
}  # fmt: skip


@pytest.mark.parametrize("command", PROFILE_COMMANDS)
def test_every_command_takes_its_own_steps(genseg, profile, monkeypatch, command):
    """Nothing is trained yet, so that `reproduce` trains; with weights it would not."""
    seen = []
    for step, place in PLACES.items():
        monkeypatch.setattr(f"bench.{place}", lambda *_, step=step, **__: seen.append(step))
    monkeypatch.setattr("bench.train.models.find_models", lambda profile: {})
    assert genseg(command, f"profile={profile}").code == 0
    assert seen == STEPS[command]


@pytest.mark.parametrize("command", ["eval", "ablation", "latency"])
def test_only_reproduce_and_study_train_what_is_missing(genseg, profile, command):
    assert "no weights of boxes in runs/one; train them with `genseg train one`" in refused(
        genseg(command, f"profile={profile}")
    )


def test_training_shows_the_stages_that_it_runs_alone(genseg, profile, monkeypatch):
    more = """  two: {method: boxes, stage: pretrain, steps: 3, model: {backbone: "stage:one"}}
  three: {method: boxes, stage: pretrain, steps: 4}
models:"""
    profile.write_text(PROFILE.replace("models:", more))
    monkeypatch.setattr("bench.train.run.train", lambda *_: [])
    shown = yaml.safe_load(genseg("train", "two", f"profile={profile}").err)
    assert list(shown["stages"]) == ["one", "two"]
    assert shown["name"] == "small"
    assert "train" in shown and "latency" not in shown
    assert set(yaml.safe_load(genseg("train", f"profile={profile}").err)["stages"]) == {"one", "two", "three"}


def test_train_takes_stages_and_settings_in_any_order(genseg, profile, monkeypatch):
    seen = []
    monkeypatch.setattr("bench.train.run.train", lambda profile, names, _: seen.append((profile.seed, names)))
    assert genseg("train", f"profile={profile}", "one", "seed=4").code == 0
    assert genseg("train", "one", f"profile={profile}").code == 0
    assert genseg("train", f"profile={profile}").code == 0
    assert seen == [(4, ["one"]), (0, ["one"]), (0, [])]


def test_an_interruption_says_that_it_can_go_on(genseg, profile, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.report.run.write_report", interrupted)
    result = genseg("report", f"profile={profile}")
    assert result.code == 130
    assert result.complaint == "genseg: interrupted; the same command resumes."


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "a/b"),
        NotADirectoryError(20, "Not a directory", "a/b"),
        *(OSError(number, os.strerror(number), "a/b") for number in (errno.ENAMETOOLONG, errno.EMFILE, errno.EIO)),
    ],
    ids=str,
)
def test_a_place_that_cannot_be_used_is_one_sentence(genseg, profile, monkeypatch, error):
    def failing(*_):
        raise error

    monkeypatch.setattr("bench.report.run.write_report", failing)
    result = genseg("report", f"profile={profile}")
    assert result.code == 2
    assert result.complaint == f"genseg: a/b: {error.strerror}; check the path, its permissions and the room left."


def test_a_mistake_of_ours_is_not_hidden(profile, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("bench.report.run.write_report", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["report", f"profile={profile}"])


def test_words_that_are_no_text_are_refused(genseg, profile):
    word = os.fsdecode(b"caf\xe9")
    assert "half a character" in only_line(genseg("segment", profile, word))
    assert "half a character" in only_line(genseg("report", f"profile={profile}", f"runs={word}"))
    assert "cannot be read" in only_line(genseg("score", word))  # a file's name may hold such bytes


@pytest.mark.parametrize("name", ["x" * 300, "\0"])
def test_names_that_no_file_can_have_are_refused(genseg, profile, name):
    for words in (["score", name], ["segment", name, "it"], ["parity", name], ["report", f"profile={name}.yaml"],
                  ["data", "check", f"root={name}"], ["segment", profile, "it", "--checkpoint", name]):  # fmt: skip
        only_line(genseg(*words))


def test_the_last_profile_counts_and_nano_is_the_default():
    assert split_profile(["a=1", "profile=x", "profile=y", "b=c=d"]) == ("y", ["a=1", "b=c=d"])
    assert split_profile([]) == ("nano", [])


def test_help_and_mistakes_load_no_torch():
    code = (
        "import sys\nfrom bench.cli import main\n"
        "for words in (['-h'], ['fly'], ['report', 'quick']):\n"
        "    try:\n        main(words)\n    except SystemExit:\n        pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0


def test_one_of_many_processes_ends_at_once(genseg, monkeypatch):
    codes = []
    monkeypatch.setattr("os._exit", codes.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert genseg("data", "list").code == 0
    assert genseg("data", "build", "levl=easy").code == 2
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert genseg("data", "list").code == 0
    assert codes == [0, 2]
