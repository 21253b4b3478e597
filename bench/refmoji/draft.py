"""One scene with its image, its objects and all that is asked about it - the unit of work of a build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from bench.refmoji.assets import Pack, pack
from bench.refmoji.backgrounds import BackgroundBank, bank
from bench.refmoji.expressions import Speaker, candidates, choose_targets, referents
from bench.refmoji.layout import Cast, compose
from bench.refmoji.levels import SPLIT_NUMBERS, Level, classes
from bench.refmoji.questions import questions
from bench.refmoji.render import Rendering, render
from bench.refmoji.scene import Scene
from bench.refmoji.seen import Seen, annotate, view_of
from bench.refmoji.special import absent, by_use, several

SPRITE_SIDE = {"easy": 144, "medium": 200, "full": 224}  # pixels: no object is drawn much larger than that
EVAL_REFERENTS = 3  # most per image of an evaluation split
TOLD = ("train", "dev", "val")  # splits with captions and questions
REASON_ODDS, MULTI_ODDS, NONE_ODDS = 0.35, 0.3, 0.2  # of special expressions in training, per referent or scene


@dataclass(frozen=True)
class Draft:
    """`referents` are records {numbers, sentences}, `questions` records {kind, question, answer}."""

    scene: Scene
    rendering: Rendering
    annotations: list[dict[str, Any]]
    referents: list[dict[str, Any]]
    questions: list[dict[str, Any]]


def pack_of(level: Level, split: str) -> Pack:
    """The sprites of a split."""
    return pack("noto" if split == "style" else "fluent3d", SPRITE_SIDE[level.name])


def bank_of(level: Level, split: str) -> BackgroundBank:
    """The backgrounds of a split."""
    return bank("train" if split == "train" else "eval", level.bank_height, level.backgrounds)


@cache
def cast_of(level_name: str, split: str, sprites: Pack) -> Cast:
    """Who may appear in the scenes of a split."""
    trained, novel = classes(level_name)
    trained = tuple(entry for entry in trained if entry.id in sprites)
    things = tuple(entry for entry in trained if not entry.person)
    if split == "testA":
        return Cast(tuple(entry for entry in trained if entry.person), trained)
    if split == "testB":
        return Cast(things, things)
    return Cast(novel, things + novel) if split == "novel" else Cast(trained, trained)


def draft(level: Level, split: str, seed: int, index: int) -> Draft:
    """Scene number `index` of a split, with at least one referent. It depends on nothing but the arguments."""
    rng = np.random.default_rng([seed, SPLIT_NUMBERS[split], index])
    sprites, backgrounds = pack_of(level, split), bank_of(level, split)
    cast = cast_of(level.name, split, sprites)
    while True:
        scene = compose(level, cast, sprites, backgrounds, rng)
        image = render(scene, sprites, backgrounds)
        annotations = annotate(scene, image, sprites)
        view = view_of(image_facts(scene), annotations, sprites)
        speaker = Speaker(view, level, rng)
        asked = _referents(level, split, speaker, cast, rng)
        if asked:
            told = questions(view, speaker, cast.extras, rng) if split in TOLD else []
            return Draft(scene, image, annotations, asked, told)


def redraw(level: Level, split: str, scene: Scene) -> tuple[Rendering, list[dict[str, Any]]]:
    """The image and the annotations of a stored scene."""
    sprites = pack_of(level, split)
    image = render(scene, sprites, bank_of(level, split))
    return image, annotate(scene, image, sprites)


def image_facts(scene: Scene) -> dict[str, Any]:
    """What the record of an image says of its scene."""
    return {"width": scene.width, "height": scene.height, "theme": scene.theme, "mode": scene.mode,
            "backdrop": scene.backdrop.kind}  # fmt: skip


def _referents(
    level: Level, split: str, speaker: Speaker, cast: Cast, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """The referents of a scene: records {numbers, sentences}."""
    view = speaker.view
    if split == "multi":
        return _present(several(view, speaker, rng))
    if split == "none":
        return _present(absent(view, cast.extras, rng))
    pool = _pool(level, split, candidates(view, level))
    if split == "reason":
        targets = choose_targets(view, [item for item in pool if by_use(view, item, rng)], level, EVAL_REFERENTS, rng)
        return [{"numbers": [item.number], "sentences": by_use(view, item, rng)} for item in targets]
    asked = referents(speaker, pool, level.referents if split == "train" else EVAL_REFERENTS)
    if split == "train" and level.special and asked:
        asked = _mixed_in(asked, speaker, cast, rng)
    return asked


def _mixed_in(
    asked: list[dict[str, Any]], speaker: Speaker, cast: Cast, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Training referents with some of the special expressions added."""
    view = speaker.view
    for record in asked:
        if rng.random() < REASON_ODDS:
            record["sentences"] += by_use(view, view.named(record["numbers"][0]), rng, count=1)
    if rng.random() < MULTI_ODDS:
        asked = asked + _present(several(view, speaker, rng))
    if rng.random() < NONE_ODDS:
        asked = asked + _present(absent(view, cast.extras, rng))
    return asked


def _present(record: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [record] if record else []


def _pool(level: Level, split: str, items: Sequence[Seen]) -> list[Seen]:
    """The objects that a split may ask for."""
    if split == "testA":
        return [item for item in items if item.entry.person]
    if split == "novel":
        return [item for item in items if item.entry in classes(level.name)[1]]
    return list(items)
