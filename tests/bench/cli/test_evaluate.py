"""`genseg eval` of a checkpoint in an official layout: nothing is converted, nothing is trained."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from bench.cli import main
from bench.config import load_profile
from bench.records import read_records
from bench.train.models import existing_model, trained_models
from methods.argenseg.parity_model import reference_model
from methods.base import UserError


@pytest.fixture
def runs(goldens):
    """Reference runs of ARGenSeg's evaluation: checkpoint, data, and what its scripts printed."""
    return goldens / "argenseg_evaluation"


@pytest.fixture
def refused(capsys):
    """refused(words) -> the sentence that a command ends with."""

    def ending(*words: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(["eval", *words])
        assert end.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    return ending


@pytest.mark.slow
def test_a_checkpoint_is_enough(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_file(reference_model(runs).mask_tokenizer.state_dict(), tmp_path / "vae.safetensors")
    data = runs / "data" / "refcoco"
    words = [
        "eval", "model=argenseg", f"checkpoint={runs / 'checkpoint'}", "mask_tokenizer=vae.safetensors",
        "dataset=grefcoco", "split=val", f"root={data}", f"images={data / 'train2014'}",
    ]  # fmt: skip
    main([*words, "protocol=official"])
    assert "official" in capsys.readouterr().out
    (folder,) = (tmp_path / "results").iterdir()
    assert folder.name.startswith("argenseg-")
    path = folder / "records" / "scores-grefcoco.val.jsonl"
    figures = {(r.protocol, r.metric): r for r in read_records(path) if r.method == "argenseg"}
    told = json.loads((runs / "expected" / "results.json").read_text())["datasets"]["grefcoco_val"]
    giou, ciou = told["returned_giou_ciou"]
    assert figures["official", "printed/giou"].value == pytest.approx(giou, abs=1e-5)
    assert figures["official", "printed/ciou"].value == pytest.approx(ciou, abs=1e-5)
    assert (figures["official", "ciou"].failures, figures["official", "ciou"].n) == (0, 4)
    (predictions,) = (tmp_path / "runs" / folder.name / "predictions").glob("*official*.jsonl")
    first, when = predictions.read_bytes(), predictions.stat().st_mtime_ns
    main([*words, "protocol=official"])
    assert (predictions.read_bytes(), predictions.stat().st_mtime_ns) == (first, when)
    main([*words, "protocol=shared", "limit=1"])
    found = {r.protocol for r in read_records(path) if r.method == "argenseg"}
    assert found >= {"official", "shared"}
    assert not (tmp_path / "runs" / folder.name / "config.yaml").exists()


@pytest.mark.slow
def test_what_cannot_be_evaluated_is_told(runs, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = f"checkpoint={runs / 'checkpoint'}"
    assert "holds no config.json" in refused("checkpoint=nowhere", "dataset=refcoco")
    assert "holds a model of argenseg, not 'himtok'" in refused(checkpoint, "model=himtok")
    assert "no such file" in refused(checkpoint, "mask_tokenizer=nowhere.pth")
    save_file({"encoder.other.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    data = runs / "data" / "refcoco"
    place = [checkpoint, "dataset=grefcoco", f"root={data}", f"images={data / 'train2014'}"]
    assert "other.safetensors: lacks " in refused(*place, "mask_tokenizer=other.safetensors")
    assert refused(checkpoint, "dataset=refcoco").startswith("genseg: data: ")
    assert "evaluate.protocols" in refused(*place, "protocol=mine")
    assert "give the file of VAR's with mask_tokenizer=" in refused(*place)
    assert "nowhere" in refused(*place[:2], "root=nowhere")


def test_a_download_that_has_stopped_is_told_before_anything_is_read(runs, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs / "checkpoint", "half")
    weights = tmp_path / "half/model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-100])
    assert f"half: model.safetensors has {len(data) - 100:,} of {len(data):,} bytes" in refused("checkpoint=half")
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    assert "model.safetensors is a pointer of Git LFS" in refused("checkpoint=half")
    weights.unlink()
    assert "1 of 1 files of weights missing, such as model.safetensors" in refused("checkpoint=half")
    with pytest.raises(UserError, match="half: 1 of 1 files of weights missing"):
        existing_model(profile_with(tmp_path / "half"), "argenseg")


def profile_with(checkpoint, *words):
    return load_profile("checkpoint", ["data.root=x", f"models.argenseg={checkpoint}", *words])


def test_a_profile_names_a_stage_or_a_folder(runs):
    profile = profile_with(runs / "checkpoint")
    assert existing_model(profile, "argenseg") == runs / "checkpoint"
    assert trained_models(profile) == {}
    with pytest.raises(UserError, match="argenseg"):
        load_profile("checkpoint", ["data.root=x", "models.argenseg=joint"])
    with pytest.raises(UserError, match="holds no config.json"):
        existing_model(profile_with("./nowhere"), "argenseg")
    wrong = load_profile("checkpoint", ["data.root=x", f"models.himtok={runs / 'checkpoint'}"])
    with pytest.raises(UserError, match="holds a model of argenseg, not of himtok"):
        existing_model(wrong, "himtok")


def test_reproduce_never_trains_a_checkpoint(refused, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "profile=checkpoint", "data.root=x", "models.argenseg=./nowhere"])
    assert end.value.code == 2
    assert "holds no config.json" in capsys.readouterr().err
