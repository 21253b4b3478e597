"""Which question a line answers, whatever forms its ids have."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.dataset import Dataset, SampleInfo
from bench.evaluate.answers import ALL, id_key, match
from methods.base import UserError


class Asked(Dataset):
    """Three references, of two sentences, of two and one with the same words, and of one."""

    name = "asked"
    infos = [
        SampleInfo(10, 1, ("left box", "the red one"), (0, 1)),
        SampleInfo("b", 2, ("left box", "red", "left box"), (0, 2, 3)),  # the sentence at 1 has no words
        SampleInfo(12, 2, ("alone",), (0,)),
    ]

    def __len__(self):
        return len(self.infos)

    def __getitem__(self, index, /):
        raise AssertionError("ids need no example")

    def info(self, index):
        return self.infos[index]


def line(reference=10, image=1, **more):
    return {"ref_id": reference, "image_id": image} | more


def matched(*rows):
    return [
        (index, row["sent_id"])
        for index, row in match([(f"p.jsonl, line {number}", row) for number, row in enumerate(rows, 1)], Asked())
    ]


@pytest.mark.parametrize("sentence", [1, 1.0, "1", "1.0", " 1"])
@pytest.mark.parametrize(("reference", "image"), [(10, 1), (10.0, 1.0), ("10", "1"), ("10.0", " 1")])
def test_all_forms_of_an_id_are_one(sentence, reference, image):
    if sentence == "1.0":
        sentence = float(sentence)
    rows = match([("p.jsonl, line 1", line(reference, image, sent_id=sentence))], Asked())
    assert [(row["ref_id"], row["image_id"], row["sent_id"]) for _, row in rows] == [(10, 1, 1)]


@settings(max_examples=100, deadline=None)
@given(st.integers(-(10**18), 10**18))
def test_keys_of_whole_numbers(number):
    assert id_key(number) == id_key(str(number)) == id_key(f"{number}.0") == str(number)
    if abs(number) < 2**53:
        assert id_key(float(number)) == str(number)


def test_words_name_a_sentence():
    assert matched(line(expression="The red  one"), line(expression="left box")) == [(0, 1), (0, 0)]
    twice = [line("b", 2, expression="left box")] * 2
    assert matched(*twice) == [(1, 0), (1, 3)]
    assert matched(line(expression="left box | the red one"), line(12, 2)) == [(0, ALL), (2, ALL)]


def test_a_reference_of_one_sentence_goes_with_either_kind():
    assert matched(line(12, 2), line(sent_id=0)) == [(2, 0), (0, 0)]
    assert matched(line(12, 2, sent_id=0), line(sent_id=-1)) == [(2, ALL), (0, ALL)]
    assert matched(line(12, 2, sent_id=-1, protocol="per_expression")) == [(2, 0)]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([line(sent_id="17")], "line 1: sent_id is 17, but reference 10 has the sentences 0, 1"),
        ([line(sent_id=-2)], "line 1: sent_id is -2, but"),
        ([line("b", 2, sent_id=1)], "line 1: sent_id is 1, but reference b has the sentences 0, 2, 3"),
        ([line(sent_id=0.5)], "line 1: sent_id is 0.5, but must be a whole number"),
        ([line(sent_id="first")], "line 1: sent_id is 'first', but must be a whole number"),
        ([line(sent_id=True)], "line 1: sent_id is True; write a number or a text"),
        ([line(float("nan"))], "line 1: ref_id is nan; write a number or a text"),
        ([line(sent_id=0, expression="the red one")], "sent_id is 0, but the expression is that of sentence 1"),
        ([line(expression="the blue one")], "reference 10 has no sentence 'the blue one'"),
        ([line(sent_id=0), line(sent_id="0")], "line 2: reference 10 was already predicted in line 1"),
        ([line(expression="left box")] * 2, "line 2: reference 10 was already predicted in line 1"),
        ([line(sent_id=0), line()], "line 2: answers all, but line 1 does not; keep answers"),
        ([line(), line("b", 2, sent_id=0)], "line 2: answers a single sentence, but line 1 does not"),
        ([line(protocol="per_expression")], "protocol per_expression but the line names no sentence"),
        ([line(sent_id=1, protocol="per_object_joined")], "protocol per_object_joined but the line names one"),
        ([line(99)], "line 1: the dataset has no reference 99"),
        ([line(image=3)], "line 1: image_id is 3, but reference 10 is of image 1"),
    ],
)
def test_what_cannot_be_matched_is_refused(rows, complaint):
    with pytest.raises(UserError, match=complaint):
        matched(*rows)
