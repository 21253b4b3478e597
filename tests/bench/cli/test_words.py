"""The short words of an evaluation, and which datasets of a profile they choose."""

import pytest

from bench.cli.words import evaluated_profile, evaluation_settings
from methods.base import UserError


def profile_of(*words):
    return evaluated_profile(evaluation_settings(words))


def test_short_words_stand_for_settings():
    assert evaluation_settings(["dataset=refcoco", "split=val,testA", "limit=3", "evaluate.seed=1"]) == {
        "data.dataset": "refcoco", "evaluate.splits": "[val,testA]", "evaluate.limit": "3", "evaluate.seed": "1",
    }  # fmt: skip
    profile = profile_of("profile=checkpoint", "dataset=refcocog", "root=d", "split=test", "protocol=official,shared")
    assert (profile.data.dataset, profile.data.root, profile.evaluate.splits) == ("refcocog", "d", ["test"])
    assert profile.evaluate.protocols == ["official", "shared"]


def test_of_several_datasets_some_are_chosen():
    words = ["profile=compare-8b", "weights=/w", "root=/d"]
    whole, some = profile_of(*words), profile_of(*words, "dataset=voc-20,refcoco")
    assert len(whole.evaluate.datasets) == 12
    assert list(some.evaluate.datasets) == ["voc-20", "refcoco"]
    assert (some.data.dataset, some.data.images) == ("refcoco", "/d/coco/train2014")
    assert some.models == {"himtok": "/w/InternVL2_5-HiMTok-8B", "argenseg": "/w/ARGenSeg-8B"}


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("dataset=refcocog,refcoc", "dataset 'refcoc' in evaluate.datasets"),
        ("dataset=", "dataset '' in evaluate.datasets"),
        ("split=val", "give evaluate.datasets.refcoco.splits=.* instead of split="),
    ],
)
def test_what_a_profile_does_not_evaluate_is_refused(word, complaint):
    with pytest.raises(UserError, match=complaint):
        profile_of("profile=compare-8b", word)
