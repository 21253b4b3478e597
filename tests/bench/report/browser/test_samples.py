"""Lines of scores become questions with an answer of each method."""

import numpy as np
import pytest

from bench.report.browser.samples import bucket_of, disagreement, facts_of, kind_of, read_samples, spread
from methods.base import UserError


def test_answers_to_a_question_stand_together_and_nothing_else_is_among_them(scores):
    found = read_samples(scores)
    assert [list(sample.answers) for sample in found] == [["himtok", "argenseg"]] * 3 + [["himtok"]]
    assert found[0].name == "examples/val/per_expression/0/0"


def test_a_folder_without_scores_says_which_command_makes_them(tmp_path):
    with pytest.raises(UserError, match="genseg eval profile=NAME"):
        read_samples(tmp_path)


def test_a_sample_that_one_method_did_not_answer_has_a_gap(scores):
    last = read_samples(scores)[-1]
    facts = facts_of(last, ["argenseg", "himtok"], {})
    assert facts["answers"][0] is None
    assert facts["answers"][1]["failure"] == "cut off"
    assert facts["disagreement"] is None


@pytest.mark.parametrize(
    "row, kind",
    [
        ({"expression": "red car"}, "name"),
        ({"expression": "tree to the LEFT"}, "position"),
        ({"expression": "man with a hat"}, "relation"),
        ({"expression": "a very red car"}, "description"),
        ({"expression": "red car", "facts": {"kind": "attribute"}}, "attribute"),
        ({"expression": "red car", "facts": {"kind": ["a", "b"]}}, "name"),
    ],
)
def test_kinds_of_expressions(row, kind):
    assert kind_of(row) == kind


def test_sizes_and_disagreement():
    full, half = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    assert [bucket_of(area) for area in (0, 1, 1024, 9216)] == ["none", "small", "medium", "large"]
    assert disagreement([half, half]) == 0
    assert disagreement([full, half]) == 1
    assert disagreement([full, full, half]) == pytest.approx(2 / 3, abs=1e-3)


def test_a_number_of_samples_is_spread_over_all(scores):
    found = read_samples(scores)
    assert [sample.ref_id for sample in spread(found, 2)] == [0, 3]
    assert spread(found, 0) == spread(found, 9) == found
