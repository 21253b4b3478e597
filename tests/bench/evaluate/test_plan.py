"""What is asked: every sentence once, or every object once, with an image's questions together."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.dataset import Dataset
from bench.evaluate.plan import objects_of, plan
from methods.base import UserError


def test_one_question_per_sentence(squares):
    questions = plan(squares(2), "per_expression")
    assert [(q.index, q.sent_id) for q in questions] == [(i, s) for i in range(6) for s in (0, 1)]
    assert questions[3].expressions == ("green one",)


def test_one_question_per_object_with_all_its_sentences(squares):
    questions = plan(squares(2), "per_object_joined")
    assert [(q.index, q.sent_id) for q in questions] == [(i, -1) for i in range(6)]
    assert questions[2].expressions == ("the blue square", "blue one")


class Scattered(Dataset):
    """Referents of two images in turn, as files list them."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index, /):
        return self.dataset[index]

    def by_image(self):
        return [("b", [1, 3]), ("a", [0, 2])]


def test_questions_of_an_image_stand_together(squares):
    assert [q.index for q in plan(Scattered(squares(2)), "per_object_joined")] == [1, 3, 0, 2]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.sampled_from(["per_expression", "per_object_joined"]))
def test_a_limit_takes_the_first_questions(squares, limit, protocol):
    assert plan(squares(3), protocol, limit) == plan(squares(3), protocol)[:limit]


def test_an_unknown_protocol_is_refused(squares):
    with pytest.raises(UserError, match="'per_image' for sentences; choose one of each"):
        plan(squares(1), "per_image")


def test_objects_are_named_once_in_order(squares):
    assert objects_of(squares(2), plan(squares(2), "per_expression")[:-3]) == [0, 1, 2, 3, 4]
