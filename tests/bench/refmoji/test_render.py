"""Images: masks are the visible pixels, scenes survive JSON, colours are measured and changed as said."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench.data.rle import rasterize
from bench.refmoji.assets import COLOURS, HUES, OPAQUE, colour_name, colour_shares, pack, recolour
from bench.refmoji.backgrounds import PAINTERS, bank
from bench.refmoji.draft import bank_of, cast_of, draft, pack_of, redraw
from bench.refmoji.layout import compose
from bench.refmoji.levels import EASY, FULL, LEVELS
from bench.refmoji.render import render, stamp
from bench.refmoji.scene import Scene


@pytest.fixture(scope="module", params=["easy", "full"])
def drafts(request):
    return LEVELS[request.param], [draft(LEVELS[request.param], "train", 0, index) for index in range(6)]


def test_masks_are_exactly_what_is_seen(drafts):
    level, made = drafts
    for item in made:
        height, width = item.rendering.ids.shape
        total = np.zeros((height, width), np.uint8)
        for record in item.annotations:
            mask = rasterize(record["segmentation"], height, width)
            assert np.array_equal(mask, item.rendering.ids == record["number"] + 1)
            rows, columns = mask.nonzero()
            x, y, w, h = record["bbox"]
            assert (x, y) == (columns.min(), rows.min()) and (x + w, y + h) == (columns.max() + 1, rows.max() + 1)
            assert record["area"] == mask.sum()
            total += mask
        assert total.max() == 1  # nothing is seen twice


def test_visible_pixels_follow_the_drawing_order(drafts):
    """Independent of the map: an object is seen where its own drawing is opaque and no later one is."""
    level, made = drafts
    sprites = pack_of(level, "train")
    for item in made[:3]:
        opaque = []
        for placed in item.scene.objects:
            canvas = np.zeros(item.rendering.ids.shape, bool)
            drawn = stamp(sprites, placed, item.scene.width, item.scene.height)
            drawn.window(canvas)[...] = drawn.pixels[..., 3] > OPAQUE
            opaque.append(canvas)
        for record in item.annotations:
            later = np.zeros_like(opaque[0])
            for canvas in opaque[record["number"] + 1 :]:
                later |= canvas
            assert record["area"] == (opaque[record["number"]] & ~later).sum()
            share = record["area"] / opaque[record["number"]].sum()
            assert record["visibility"] == pytest.approx(share, abs=1e-3)


def test_objects_stay_visible(drafts):
    level, made = drafts
    least = level.visible if level.crowded[0] == 0 else level.crowded[1]
    for item in made:
        assert level.objects[0] <= len(item.scene.objects) <= level.objects[1]
        assert all(record["visibility"] > least - 0.03 for record in item.annotations)  # silhouettes are estimates


def test_a_scene_survives_json_and_is_drawn_alike(drafts):
    level, made = drafts
    for item in made[:3]:
        again = Scene.from_json(json.loads(json.dumps(item.scene.to_json())))
        assert again == item.scene
        rendering, annotations = redraw(level, "train", again)
        assert rendering.image.tobytes() == item.rendering.image.tobytes() and annotations == item.annotations


def test_a_scene_depends_on_its_number_only():
    first = draft(EASY, "train", 0, 5)
    for other in (0, 9, 2):
        draft(EASY, "train", 0, other)
    again = draft(EASY, "train", 0, 5)
    assert again.scene == first.scene and again.referents == first.referents and again.questions == first.questions
    assert draft(EASY, "train", 1, 5).scene != first.scene


@pytest.mark.parametrize("split", ["testA", "testB", "novel", "style"])
def test_casts(split):
    sprites = pack_of(FULL, split)
    cast = cast_of("full", split, sprites)
    scene = compose(FULL, cast, sprites, bank_of(FULL, split), np.random.default_rng(0))
    assert all(placed.sprite in sprites for placed in scene.objects)
    people = [entry.person for entry in cast.stars]
    assert all(people) if split == "testA" else split == "style" or not any(people)
    assert scene.pack == ("noto" if split == "style" else "fluent3d") and scene.bank == "eval"
    assert render(scene, sprites, bank_of(FULL, split)).image.size == (scene.width, scene.height)


def test_the_two_banks_share_no_background():
    train, held_out = bank("train", 64, 3), bank("eval", 64, 3)
    assert not set(train.photographs) & set(held_out.photographs)
    for kind in PAINTERS:
        images = [train.get(kind, 0), train.get(kind, 1), held_out.get(kind, 0), held_out.get(kind, 1)]
        assert len({image.pixels.tobytes() for image in images}) == 4
        assert all(image.pixels.shape == (64, 80, 3) for image in images)


@pytest.mark.parametrize(
    ("rgb", "name"),
    [((220, 30, 30), "red"), ((245, 140, 20), "orange"), ((250, 220, 40), "yellow"), ((40, 160, 60), "green"),
     ((40, 90, 220), "blue"), ((140, 50, 190), "purple"), ((255, 150, 190), "pink"), ((110, 65, 30), "brown"),
     ((15, 15, 15), "black"), ((250, 250, 250), "white"), ((128, 128, 128), "gray")],
)  # fmt: skip
def test_plain_colours_have_their_names(rgb, name):
    patch = np.full((8, 8, 4), 255, np.uint8)
    patch[..., :3] = rgb
    assert colour_name(colour_shares(patch)) == name


def test_recolouring_turns_the_main_hue():
    sprites = pack("fluent3d", 96)
    car = sprites._decoded("automobile")
    names = {hue: colour_name(colour_shares(np.asarray(recolour(car, hue)))) for hue in HUES}
    assert (names[124], names[212]) == ("green", "blue")
    assert np.array_equal(np.asarray(car)[..., 3], np.asarray(recolour(car, 212))[..., 3])


def test_nothing_but_a_transparent_sprite_has_no_colour():
    assert colour_shares(np.zeros((4, 4, 4), np.uint8)).sum() == 0 and len(COLOURS) == 11
