"""RefMoji 2: what its levels add, that nothing else changes, and the split that nobody has seen."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from bench.refmoji.build import plan_of
from bench.refmoji.draft import bank_of, cast_of, draft, pack_of, redraw
from bench.refmoji.layout import compose
from bench.refmoji.levels import EASY, EASY_2, FULL_2, LEVELS
from bench.refmoji.render import render
from bench.refmoji.scene import Cover, Placed, Scene
from methods.base import UserError


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """40 scenes of the easy level, composed only."""
    sprites, backgrounds = pack_of(EASY_2, "train"), bank_of(EASY_2, "train")
    cast = cast_of("easy", "train", sprites)
    return [compose(EASY_2, cast, sprites, backgrounds, np.random.default_rng(i)) for i in range(40)]


def test_shapes_are_stretched_cut_and_pierced(scenes):
    placed = [item for scene in scenes for item in scene.objects]
    stretched = [item.stretch for item in placed if item.stretch != 1]
    assert 0.55 < len(stretched) / len(placed) < 0.85
    assert min(stretched) < 0.5 and max(stretched) > 2 and all(0.2 <= value <= 5 for value in stretched)
    kinds = {cover.kind for scene in scenes for cover in scene.covers}
    assert kinds == {"bar", "disc"} and 3 < sum(bool(scene.covers) for scene in scenes) < 20


def test_objects_at_a_border_are_cut_by_it():
    made = [draft(EASY_2, "train", 0, index) for index in range(12)]
    boxes = [record["bbox"] for item in made for record in item.annotations]
    assert any(x == 0 or y == 0 or x + w == 224 or y + h == 224 for x, y, w, h in boxes)


def test_a_cover_takes_its_pixels_from_the_objects_and_nothing_else():
    sprites, backgrounds = pack_of(EASY, "train"), bank_of(EASY, "train")
    scene = draft(EASY, "train", 0, 3).scene
    item = scene.objects[-1]
    hole = Cover("disc", item.x, item.y, 0.0, 12.0, 0.0, 1)
    plain, pierced = (render(s, sprites, backgrounds) for s in (scene, replace(scene, covers=(hole,))))
    lost = plain.ids != pierced.ids
    assert 60 < lost.sum() < 200 and not pierced.ids[lost].any() and pierced.full == plain.full
    y, x = lost.nonzero()
    assert np.hypot(x + 0.5 - item.x, y + 0.5 - item.y).max() < 7


def test_a_bar_cuts_an_object_into_parts():
    sprites, backgrounds = pack_of(EASY, "train"), bank_of(EASY, "train")
    scene = draft(EASY, "train", 0, 3).scene
    bar = Cover("bar", 112.0, 112.0, 900.0, 10.0, 90.0, 0)
    ids = render(replace(scene, covers=(bar,)), sprites, backgrounds).ids
    assert not ids[:, 108:116].any()


def test_what_the_new_levels_add_survives_json_and_is_drawn_alike():
    made = next(item for item in (draft(EASY_2, "train", 0, i) for i in range(20)) if item.scene.covers)
    again = Scene.from_json(json.loads(json.dumps(made.scene.to_json())))
    assert again == made.scene
    rendering, annotations = redraw(EASY_2, "train", again)
    assert rendering.image.tobytes() == made.rendering.image.tobytes() and annotations == made.annotations


def test_what_has_its_default_is_not_written():
    scene = draft(EASY, "train", 0, 0).scene
    record = scene.to_json()
    assert "covers" not in record and all(len(item) == 8 for item in record["objects"])
    longer = replace(scene, objects=(replace(scene.objects[0], stretch=2.0),))
    assert len(longer.to_json()["objects"][0]) == len(Placed.__dataclass_fields__)


def test_the_sealed_split_follows_the_seed_of_the_build():
    assert plan_of("easy-2", ["test"], 0, 5).scenes == (("test", 250),)
    assert "test" not in dict(plan_of("easy-2", None, 0, 0).scenes) and "dev" in dict(
        plan_of("easy-2", None, 0, 0).scenes
    )
    one, other = (draft(EASY_2, "test", seed, 0).scene for seed in (1, 2))
    assert one != other and one.bank == "eval"
    with pytest.raises(UserError, match="no split 'test'"):
        plan_of("easy", ["test"], 0, 0)


def test_levels_have_names_of_their_own():
    assert (EASY_2.key, FULL_2.key, EASY.key) == ("easy-2", "full-2", "easy") and set(LEVELS) >= {"easy-2", "full-2"}
