"""`genseg explain`: each pair differs in what is known, and its name and its points are told."""

import json

import numpy as np
import pytest
from PIL import Image

from bench.data import rle
from bench.data.dataset import ExampleDataset
from bench.evaluate.dialects import Answers, dialect_of
from bench.evaluate.explain import SENTENCES, Side, explain
from bench.evaluate.predictions import settings_of, settings_text
from bench.evaluate.scoring import score_predictions
from methods.base import Example, UserError
from methods.files import write_lines

SIZE = (20, 30)
WORDS = [("a cup", "the cup"), ("a car",), ("a dog", "left dog", "brown dog"), ("nothing",), ("a hat",), ("a cat",)]
TOLD = {"sentences": "each", "question": "", "repeat": 1, "mask_resize": "official", "image": "stored"}
SETTINGS = {"method": "himtok", "weights": "w1", "precision": "torch.float32", "told": TOLD}


def block(x, y, width, height):
    mask = np.zeros(SIZE, bool)
    mask[y : y + height, x : x + width] = True
    return mask


TRUTHS = [
    block(2, 2, 8, 6),
    block(20, 1, 9, 15),
    block(5, 10, 20, 8),
    block(0, 0, 0, 0),
    block(1, 1, 3, 3),
    block(9, 4, 5, 9),
]


def dataset(grow=0, kept=6, ignore=False, name="toy"):
    """The samples; `grow` moves the border of every mask, `kept` leaves samples out."""
    examples = []
    for number, (truth, words) in enumerate(list(zip(TRUTHS, WORDS, strict=True))[:kept]):
        mask = truth if not grow or not truth.any() else truth | np.roll(truth, grow, 1)
        region = block(0, 15, 30, 5) if ignore else None
        examples.append(
            Example(Image.new("RGB", SIZE[::-1]), words, mask, image_id=number, ref_id=number, ignore=region,
                    no_target=not truth.any())
        )  # fmt: skip
    return ExampleDataset(examples, name)


def side(folder, data, masks, dialect="genseg", sentences="each", tokens=None, settings=SETTINGS):
    """A side whose answers are `masks` by sample; None is no answer."""
    lines = []
    for index in range(len(data)):
        info, mask = data.info(index), masks[index]
        code = None if mask is None else rle.encode(mask)
        ids = list(tokens[index]) if tokens is not None and mask is not None else []
        for position in info.positions if sentences == "each" else [-1]:
            lines.append({"ref_id": info.ref_id, "image_id": info.image_id, "sent_id": position, "mask": code,
                          "token_ids": ids})  # fmt: skip
    folder.mkdir(exist_ok=True)
    path = write_lines(folder / f"p{len(list(folder.iterdir()))}.jsonl", lines)
    return Side(Answers(score_predictions(path, data), data), dialect_of(dialect), settings)


def shifted(by):
    return [np.roll(mask, by, 1) for mask in TRUTHS]


def total(one, other, metric):
    values = [each.answers.value(each.dialect.rules, metric) for each in (one, other)]
    return values[1] - values[0]


def check(one, other, causes):
    """The causes by name, in order, and that their changes add up."""
    parts = explain(one, other)
    assert [part.cause for part in parts] == causes
    for metric in ("ciou", "giou"):
        assert sum(part.change[metric] for part in parts) == pytest.approx(total(one, other, metric), abs=1e-12)
    return parts


def test_a_dialect_is_named_with_its_points(tmp_path):
    data = dataset(ignore=True)
    first, second = (side(tmp_path, data, shifted(2), dialect) for dialect in ("unipixel", "himtok"))
    (part, *_) = explain(first, second)
    assert part.cause == "dialect: ignored pixels are hits"
    assert part.change["giou"] == pytest.approx(total(first, second, "giou"), abs=1e-9)
    assert part.answers == 9


def test_another_ground_truth_is_named_with_its_points(tmp_path):
    one, other = (side(tmp_path, dataset(grow), TRUTHS) for grow in (0, 2))
    (part,) = check(one, other, ["data: ground truth"])
    kept, grown = (sum(mask.sum() * len(words) for mask, words in zip(masks, WORDS, strict=True))
                   for masks in (TRUTHS, [mask | np.roll(mask, 2, 1) for mask in TRUTHS]))  # fmt: skip
    assert part.change["ciou"] == pytest.approx(kept / grown - 1)


def test_answers_that_one_file_lacks_are_named(tmp_path):
    data = dataset()
    some = [None if index in (1, 2) else mask for index, mask in enumerate(TRUTHS)]
    (part,) = check(side(tmp_path, data, TRUTHS), side(tmp_path, data, some), ["failures"])
    assert part.change["giou"] == pytest.approx(-4 / 9)
    assert part.answers == 4  # sentences


def test_another_conversion_of_the_same_tokens_is_named(tmp_path):
    data, tokens = dataset(), [(number, 1, 2) for number in range(6)]
    one, other = (side(tmp_path, data, masks, tokens=tokens) for masks in (TRUTHS, shifted(1)))
    check(one, other, ["mask conversion"])


def test_questions_that_one_file_lacks_are_named(tmp_path):
    whole, less = (side(tmp_path, dataset(kept=kept), shifted(1)) for kept in (6, 4))
    (part,) = check(whole, less, ["data: questions of the first file alone"])
    assert part.answers == 2
    check(less, whole, ["data: questions of the second file alone"])


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"weights": "w2"}, "model"),
        ({"told": TOLD | {"question": "Where is {sentences}?"}}, "prompt"),
        ({"told": TOLD | {"image": "upright"}}, "image"),
        ({"rule": "expected"}, "decoding"),
        ({"precision": "torch.bfloat16"}, "precision"),
        ({"weights": "w2", "told": TOLD | {"repeat": 2}}, "model and prompt, together"),
        ({}, "answers (the same settings)"),
    ],
)
def test_what_the_settings_say_is_the_name_of_the_rest(tmp_path, change, cause):
    data = dataset()
    check(side(tmp_path, data, TRUTHS), side(tmp_path, data, shifted(1), settings=SETTINGS | change), [cause])


def test_three_causes_add_up(tmp_path):
    """Another dialect, answers that fail, and another model."""
    data = dataset(ignore=True)
    some = [None if index == 2 else mask for index, mask in enumerate(shifted(1))]
    one = side(tmp_path, data, TRUTHS, "unipixel")
    other = side(tmp_path, data, some, "himtok", settings=SETTINGS | {"weights": "w2"})
    causes = [part.cause for part in explain(one, other)]
    assert causes[-2:] == ["failures", "model"]
    assert all(cause.startswith("dialect") for cause in causes[:-2])
    for metric in ("ciou", "giou"):
        found = sum(part.change[metric] for part in explain(one, other))
        assert found == pytest.approx(total(one, other, metric), abs=1e-12)


@pytest.mark.parametrize("turned", [False, True])
def test_sentences_asked_singly_or_together(tmp_path, turned):
    """The same masks: what differs is how often an object counts. Other masks: the sentences."""
    data = dataset()
    joint = SETTINGS | {"told": TOLD | {"sentences": "joined"}}
    single = side(tmp_path, data, shifted(1))
    for masks, causes in ((shifted(1), [SENTENCES]), (shifted(3), ["sentences", SENTENCES])):
        other = side(tmp_path, data, masks, sentences="joined", settings=joint)
        pair = (other, single) if turned else (single, other)
        check(*pair, causes[::-1] if turned else causes)


def test_files_of_two_datasets_are_matched_by_image_and_words(tmp_path):
    """The same samples under other ids, as refer pickles and PSALM's JSON have them."""
    data = dataset()
    renamed = ExampleDataset([Example(**{**vars(each), "ref_id": 70 - each.ref_id}) for each in data.examples], "other")
    one, other = (
        side(tmp_path, data, TRUTHS),
        side(tmp_path, renamed, shifted(1), settings=SETTINGS | {"weights": "w2"}),
    )
    check(one, other, ["model"])


def test_nothing_in_common_is_refused(tmp_path):
    one = side(tmp_path, dataset(), TRUTHS)
    data = ExampleDataset([Example(Image.new("RGB", SIZE[::-1]), ("z",), TRUTHS[0], image_id=90, ref_id=91)], "far")
    with pytest.raises(UserError, match="no question in common"):
        explain(one, side(tmp_path, data, TRUTHS))


def test_settings_are_read_back_from_a_stamp(tmp_path):
    (tmp_path / "p.stamp").write_text(settings_text(**SETTINGS))
    assert settings_of(tmp_path / "p.jsonl") == SETTINGS
    (tmp_path / "p.stamp").write_text("0123456789abcdef")
    assert settings_of(tmp_path / "p.jsonl") == settings_of(tmp_path / "none.jsonl") == {}
    assert json.loads(settings_text(**SETTINGS)) == SETTINGS
