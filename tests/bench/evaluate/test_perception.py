"""Mask perception: what is asked, and what counts as an answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.data.dataset import Dataset
from bench.data.perception import LETTERS, PerceptionSet
from bench.evaluate.perception import Scored, ask, likeliest, read_letters, score, summary
from methods.base import Example, Prediction, UserError

IMAGE = Image.new("RGB", (30, 10))


class Words(Dataset):
    """Images of three objects side by side, each with two sentences of its own."""

    name = "words"

    def __init__(self, images: int = 8, sentences: int = 2):
        self.examples = []
        for image in range(images):
            for place in range(3):
                mask = np.zeros((10, 30), bool)
                mask[:, 10 * place : 10 * place + 10] = True
                texts = tuple(f"thing {place} of {image}, version {v}" for v in range(sentences))
                self.examples.append(Example(IMAGE, texts, mask, dataset="words", image_id=image, ref_id=3 * image))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int, /) -> Example:
        return self.examples[index]

    def by_image(self):
        return [(i, [3 * i, 3 * i + 1, 3 * i + 2]) for i in range(len(self) // 3)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 23), st.integers(2, 6), st.booleans(), st.integers(0, 10**6))
def test_options_are_right_near_and_far(index, options, several, seed):
    words = Words(sentences=3)
    question = PerceptionSet(words, options, several, seed)[index]
    texts, sources = question.facts["options"], question.facts["sources"]
    assert len(texts) == len(sources) == options == len(set(texts))
    place, image = index % 3, index // 3
    for text, source in zip(texts, sources, strict=True):
        own = text.startswith(f"thing {place} of {image},")
        here = f"of {image}," in text
        assert source == ("right" if own else "same_image" if here else "other_image")
    letters = [letter for letter, source in zip(LETTERS, sources, strict=False) if source == "right"]
    assert question.answer == ", ".join(letters)
    assert 1 <= len(letters) <= (options - 1 if several else 1)
    assert question.mask is words[index].mask


def test_a_set_is_a_function_of_its_seed():
    first, same, other = (PerceptionSet(Words(), seed=seed) for seed in (1, 1, 2))
    assert [q.facts for q in first] == [same[i].facts for i in reversed(range(24))][::-1]
    assert [q.facts for q in first] != [q.facts for q in other]
    assert first.by_image() == Words().by_image()


def test_every_letter_is_right_about_equally_often():
    answers = [PerceptionSet(Words(), seed=seed)[i].answer for seed in range(20) for i in range(24)]
    counts = [answers.count(letter) for letter in "ABCD"]
    assert sum(counts) == 480
    assert min(counts) > 80


def test_several_right_ones_do_occur():
    numbers = {len(q.answer.split(", ")) for seed in range(5) for q in PerceptionSet(Words(), 4, True, seed)}
    assert numbers == {1, 2}


def test_an_overlapping_referent_or_the_same_words_are_never_a_wrong_option():
    words = Words(sentences=1)
    words.examples[1] = replace(words.examples[1], mask=words.examples[0].mask)  # the same object, other words
    words.examples[2] = replace(words.examples[2], expressions=(words.examples[0].expressions[0].upper(),))
    for seed in range(20):
        assert "same_image" not in PerceptionSet(words, seed=seed)[0].facts["sources"]


def test_what_cannot_be_asked():
    with pytest.raises(UserError, match="too few different expressions for 5 options"):
        PerceptionSet(Words(1), 5)[0]
    with pytest.raises(UserError, match="2 to 26 options, not 1"):
        PerceptionSet(Words(), 1)
    empty = Words()
    empty.examples[0] = replace(empty.examples[0], mask=np.zeros((10, 30), bool))
    with pytest.raises(UserError, match="words sample 0: no mask"):
        PerceptionSet(empty)[0]


OPTIONS = ("the red car", "a dog", "B", "two men")


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("A", "A"), ("b", "B"), ("a", "A"), ("(D)", "D"), ("[C].", "C"), (" A. \n", "A"), ("A. the red car", "A"),
        ("B) a dog", "B"), ("(D) two men", "D"), ("The answer is D", "D"), ("Answer: A.", "A"), ("a dog", "B"),
        ("Two  men.", "D"), ("A<|im_end|>", "A"), ("The correct option is (B).", "B"), ("B.", "B"),
        ("the dog on the left. The answer is B.", "B"), ("It is no man: option A", "A"),
    ],
)  # fmt: skip
def test_answers_that_are_read(text, letters):
    assert read_letters(text, OPTIONS) == frozenset(letters)


@pytest.mark.parametrize(
    "text",
    ["", "A dog is there", "I", "E", "Z.", "A, D", "A and D", "no idea", "it is a dog", "AB", "<mask>", "A man",
     "the answer", "?", "D or A", "Both", "The answer is a mystery to me", "a dog. The answer is E"],
)  # fmt: skip
def test_answers_that_are_failures(text):
    assert read_letters(text, OPTIONS) is None


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("A, D", "AD"), ("A and D.", "AD"), ("A, B, and D", "ABD"), ("(A); (D)", "AD"), ("Answers: A & D", "AD"),
        ("D", "D"),
    ],
)  # fmt: skip
def test_several_letters(text, letters):
    assert read_letters(text, OPTIONS, several=True) == frozenset(letters)


@given(st.text(), st.booleans())
def test_no_text_breaks_the_reader(text, several):
    found = read_letters(text, OPTIONS, several)
    assert found is None or (found and found <= set("ABCD"))


def test_scores_count_failures_as_wrong():
    facts = {"options": ("p", "q", "r", "s")}
    questions = [Example(IMAGE, ("x",), answer=answer, facts=facts) for answer in ("A", "B", "A", "C")]
    scored = score(questions, ["A", "A", "nonsense", "C. r"])
    assert [s.right for s in scored] == [True, False, False, True]
    assert [s.failed for s in scored] == [False, False, True, False]
    found = summary(scored, [1, 1, 2, 3])
    assert (found["accuracy"].value, found["failures"].value, found["chance"].value) == (0.5, 0.25, 0.25)
    assert found["accuracy"].low <= 0.5 <= found["accuracy"].high
    with pytest.raises(ValueError):
        score(questions, ["A"])


def test_several_letters_must_be_exactly_the_right_ones():
    question = Example(IMAGE, ("x",), answer="A, C", facts={"options": ("p", "q", "r")})
    right = [s.right for s in score([question] * 4, ["A, C", "C and A", "A", "A, B, C"], several=True)]
    assert right == [True, True, False, False]
    assert score([question], [""], several=True) == [Scored(False, True, 1 / 7)]


def test_a_method_is_shown_the_mask_and_the_options():
    seen = []

    class Parrot:
        def segment(self, requests, decoding=None):
            seen.extend(requests)
            return [Prediction(np.zeros((10, 30), bool), text=LETTERS[i % 4]) for i, _ in enumerate(requests)]

    questions = PerceptionSet(Words())
    texts = ask(Parrot(), questions, several=False, batch=5)
    assert texts == [LETTERS[i % 5 % 4] for i in range(24)]
    assert all(request.expressions == questions[i].facts["options"] for i, request in enumerate(seen))
    assert all(request.mask is questions[i].mask and request.want == ("choice",) for i, request in enumerate(seen))


def test_the_likeliest_answer_is_the_one_with_the_least_loss():
    class Reader:
        """Finds answers likelier, the fewer letters lie between them and the first expression."""

        stages, device, stage = ("first", "last"), torch.device("cpu"), ""

        def enter_stage(self, stage):
            self.stage = stage

        def eval(self):
            return self

        @property
        def processor(self):
            return self

        def prepare(self, example, task, rng):
            assert (task, self.stage) == ("choose", "last")
            return example

        def collate(self, samples):
            (example,) = samples
            return {"gap": torch.tensor(abs(ord(example.answer) - ord(example.expressions[0])))}

        def loss(self, batch):
            return {"text": batch["gap"].float()}

    options = {"options": ("p", "q", "r", "s")}
    questions = [Example(IMAGE, (letter,), answer="A", facts=options) for letter in "CAD"]
    assert likeliest(Reader(), questions) == ["C", "A", "D"]
