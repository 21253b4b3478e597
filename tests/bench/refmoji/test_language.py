"""Expressions mean one thing: checked from the files alone, and as a property of random images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.data.rle import rasterize
from bench.refmoji.assets import COLOURS, colour_name, colour_shares, pack
from bench.refmoji.claims import phrase_from_json, unambiguous
from bench.refmoji.expressions import Speaker
from bench.refmoji.levels import EASY, FULL, STYLES, classes
from bench.refmoji.lexicon import lexicon
from bench.refmoji.phrases import LOCATION_WORDS
from bench.refmoji.seen import Seen, View
from bench.refmoji.special import absent, by_use, holds, several


# --------------------------------------------------------------------------------------- from the files alone
def asked(root, read, kind):
    """(image record, target annotation, annotations of its class, first claim) of every sentence of a kind."""
    data = read(root, "instances.json")
    images = {image["id"]: image for image in data["images"]}
    annotations = {annotation["id"]: annotation for annotation in data["annotations"]}
    for ref in read(root, "refs(genseg).json"):
        for sentence in ref["sentences"]:
            if sentence["kind"] == kind:
                target = annotations[ref["ann_id"]]
                same = [
                    item for item in data["annotations"]
                    if item["image_id"] == target["image_id"] and item["category_id"] == target["category_id"]
                    and item is not target
                ]  # fmt: skip
                yield images[target["image_id"]], target, same, sentence["claims"][0]


@pytest.mark.parametrize("level", ["easy", "full"])
def test_positions_are_true_of_one_object(level, easy_root, full_root, read):
    root, checked = easy_root if level == "easy" else full_root, 0
    for image, target, same, (_, side) in asked(root, read, "position"):
        axis = 0 if side in ("left", "right") else 1
        sign = -1 if side in ("left", "top") else 1
        size = image["width"] if axis == 0 else image["height"]
        centre = [item["bbox"][axis] + item["bbox"][axis + 2] / 2 for item in (target, *same)]
        assert all(sign * (centre[0] - other) > 0.08 * size for other in centre[1:])
        checked += 1
    assert checked > 3


def test_colours_are_true_of_one_object_in_the_image(easy_root, read):
    checked = 0
    for image, target, same, (_, colour) in asked(easy_root, read, "color"):
        pixels = np.asarray(Image.open(easy_root / "images" / image["file_name"]))

        def share(annotation, pixels=pixels, colour=colour):
            mask = rasterize(annotation["segmentation"], *pixels.shape[:2])
            rgba = np.dstack([pixels, np.where(mask, 255, 0).astype(np.uint8)])
            return colour_shares(rgba)[COLOURS.index(colour)]

        assert target["color"] == colour and all(other["color"] != colour for other in same)
        assert all(share(target) > share(other) for other in same)
        checked += 1
    assert checked > 20


def test_refcoco_plus_never_says_where(easy_root, full_root, read):
    for root in (easy_root, full_root):
        for ref in read(root, "refs(genseg).json"):
            for sentence in ref["sentences"]:
                assert sentence["style"] != "refcoco+" or not LOCATION_WORDS & set(sentence["tokens"]), sentence
                assert sentence["sent"] == sentence["raw"].lower() == " ".join(sentence["tokens"])


def test_names_are_never_shared(easy_root, read):
    """A bare name is used only where no second object of the class is in the image."""
    assert all(not same for *_, same in asked_names(easy_root, read))


def asked_names(root, read):
    data = read(root, "instances.json")
    of_image = {}
    for annotation in data["annotations"]:
        of_image.setdefault(annotation["image_id"], []).append(annotation)
    for ref in read(root, "refs(genseg).json"):
        for sentence in ref["sentences"]:
            if sentence["kind"] == "name":
                (target,) = [item for item in of_image[ref["image_id"]] if item["id"] == ref["ann_id"]]
                same = [item for item in of_image[ref["image_id"]] if item["category_id"] == target["category_id"]]
                yield ref, target, [item for item in same if item is not target]


# ------------------------------------------------------------------------------------------ as a property
SPRITES = pack("fluent3d", 64)
ENTRIES = [entry for entry in classes("full")[0] if entry.subgroup in ("mammals", "people", "clothing", "fruit")]


@st.composite
def views(draw) -> View:
    """A random image of 200 x 160 with two to seven objects, some of the same class."""
    kinds = draw(st.lists(st.sampled_from(ENTRIES), min_size=1, max_size=3))
    objects = []
    for number in range(draw(st.integers(2, 7))):
        entry = draw(st.sampled_from(kinds))
        hue = draw(st.sampled_from([None, 0, 4])) if entry.recoloured else None
        width, height = draw(st.integers(10, 80)), draw(st.integers(10, 80))
        x, y = draw(st.integers(0, 200 - width)), draw(st.integers(0, 160 - height))
        shares = SPRITES.colours(entry.id, hue)
        objects.append(Seen(
            number=number, entry=entry, box=(x, y, width, height), area=width * height // 2,
            visibility=draw(st.sampled_from([0.4, 0.8, 1.0])), size=(width * height) ** 0.5,
            angle=draw(st.sampled_from([0.0, 60.0, 170.0])), base=float(y + height),
            colour=None if entry.person else colour_name(shares), shares=tuple(shares.tolist()),
            cut=x == 0 or y == 0,
        ))  # fmt: skip
    return View(200, 160, draw(st.sampled_from(["ground", "top", "float"])), "wood", tuple(objects))


@settings(max_examples=60, deadline=None)
@given(views(), st.integers(0, 2**32 - 1), st.sampled_from([EASY, FULL]))
def test_no_phrase_is_true_of_two_objects(view, seed, level):
    speaker = Speaker(view, level, np.random.default_rng(seed))
    for target in view.objects:
        for style in STYLES:
            sentence = speaker.sentence(target, style)
            if sentence is None:
                continue
            phrase = phrase_from_json(sentence["noun"], sentence["claims"])
            fitting = [item.number for item in view.objects if unambiguous(view, item, phrase)]
            assert fitting == [target.number], sentence
            assert holds(view, [target.number], sentence)
            assert style != "refcoco+" or not LOCATION_WORDS & set(sentence["raw"].split())


@settings(max_examples=40, deadline=None)
@given(views(), st.integers(0, 2**32 - 1))
def test_special_expressions_hold_of_their_objects_only(view, seed):
    rng = np.random.default_rng(seed)
    everyone = {item.number for item in view.objects}
    for made in (several(view, Speaker(view, FULL, rng), rng), absent(view, ENTRIES, rng)):
        for sentence in made["sentences"] if made else ():
            assert holds(view, made["numbers"], sentence), sentence
            assert not holds(view, sorted(everyone - set(made["numbers"])), sentence)
    for target in view.objects:
        assert all(holds(view, [target.number], sentence) for sentence in by_use(view, target, rng))


# -------------------------------------------------------------------------------------------------------- words
@pytest.mark.parametrize(
    ("noun", "plural"),
    [("cup of coffee", "cups of coffee"), ("man with a beard", "men with a beard"), ("mouse", "mice"), ("box", "boxes"),
     ("police officer", "police officers"), ("scissors", "scissors"), ("cherry blossom", "cherry blossoms"),
     ("butterfly", "butterflies"), ("key", "keys"), ("wolf", "wolves"), ("woman", "women"), ("bus", "buses")],
)  # fmt: skip
def test_plurals(noun, plural):
    assert lexicon().plural(noun) == plural


@pytest.mark.parametrize(
    ("noun", "phrase"),
    [("apple", "an apple"), ("hourglass", "an hourglass"), ("UFO", "a UFO"), ("unicorn", "a unicorn"),
     ("umbrella", "an umbrella"), ("scissors", "some scissors"), ("bread", "some bread"), ("car", "a car")],
)  # fmt: skip
def test_articles(noun, phrase):
    assert lexicon().article(noun, noun) == phrase


def test_loose_readings_contain_strict_ones():
    words = lexicon()
    for entry in words.entries.values():
        assert all(words.might_fit(entry, word) for word in entry.words)
        assert entry.name and entry.head and words.plural(entry.head)
    by_name = {entry.name: entry for entry in words.entries.values()}
    assert words.might_fit(by_name["lemon"], "orange") and not words.might_fit(by_name["hammer"], "animal")
    assert words.might_fit(by_name["trumpet"], "musical instrument") and words.might_fit(by_name["wolf"], "dog")
