"""Ways to write a mask compared by a profile: the same recipe for all, and one command from training to table."""

import pytest

from bench.config import load_profile
from bench.records import LATENCY, RECONSTRUCTION, SCORE, read_records

FIVE = {"himtok", "argenseg", "textpolygon", "textrows", "segtoken"}


def test_all_have_as_many_samples_on_the_same_backbone():
    profile = load_profile("paradigms")
    assert set(profile.models) == FIVE
    stages = [profile.stages[name] for name in ("argenseg", "polygon", "rows", "segtoken", "segtoken_blind")]
    counts = {stage.steps * stage.images_per_step * stage.expressions_per_image for stage in stages}
    two = [profile.stages[name] for name in ("himtok_align", "himtok")]
    counts.add(sum(stage.steps * stage.images_per_step * stage.expressions_per_image for stage in two))
    assert len(counts) == 1
    assert {stage.model["backbone"] for stage in [*stages, two[0]]} == {"stage:backbone"}


@pytest.mark.parametrize("name", ["paradigms", "paradigms-8b"])
def test_recipes_of_the_new_ways_differ_in_the_method_alone(name):
    profile = load_profile(name)
    same = ("steps", "images_per_step", "expressions_per_image", "lr", "muon_lr", "warmup", "schedule", "decay_ratio")
    recipes = [[getattr(profile.stages[stage], key) for key in same] for stage in ("polygon", "rows", "segtoken")]
    assert recipes[0] == recipes[1] == recipes[2]


@pytest.mark.slow
def test_one_command_trains_evaluates_times_and_reports_all(genseg, folder, easy_root):
    done = genseg("reproduce", "profile=paradigms-smoke", f"data.root={easy_root}", "train.threads=1")
    assert done.code == 0, done.complaint
    assert genseg("train", "profile=paradigms-smoke", f"data.root={easy_root}", "segtoken_blind").code == 0
    assert genseg("ablation", "profile=paradigms-smoke", f"data.root={easy_root}").code == 0
    assert genseg("report", "profile=paradigms-smoke", f"data.root={easy_root}").code == 0
    results = folder / "results/paradigms-smoke"
    records = read_records(results / "records")
    for kind in (SCORE, LATENCY):
        assert {record.method for record in records if record.kind == kind} >= FIVE
    bounds = [r for r in records if r.kind == RECONSTRUCTION and r.metric == "giou"]
    assert {r.method for r in bounds if r.tokens} == FIVE - {"segtoken"}  # which has the resize bound alone
    assert {r.method for r in bounds} == FIVE and all(r.low is not None for r in bounds)
    assert {str(r.variant) for r in records if r.method == "segtoken"} >= {"{'image': 'zeros'}", "{'image': 'patches'}"}
    assert (results / "tables/latency.md").is_file()
