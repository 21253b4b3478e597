"""The difficulty levels. They serve as a curriculum: what `easy` trains is part of what `full` trains.

`easy-2` and `full-2` (RefMoji 2) have the shapes of real masks: tall, wide and thin ones, ones that the border cuts,
holes, several parts. Their choices are made on the split `dev`, and `test` is drawn from a seed that is told only when
all trainings have ended. The levels without a number stay as they were, byte for byte.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from functools import cache

from bench.refmoji.lexicon import Entry, lexicon
from methods.base import UserError

EASY_CLASSES = tuple(
    """dog cat horse cow pig elephant rabbit penguin duck frog turtle fish butterfly cactus sunflower banana red_apple
    pineapple strawberry carrot pizza hamburger doughnut hot_beverage automobile bus bicycle airplane rocket sailboat
    umbrella balloon soccer_ball basketball guitar drum chair t_shirt backpack alarm_clock pencil hammer scissors
    teddy_bear wrapped_gift key candle baby woman old_man man_cook man_police_officer man_astronaut""".split()
)
EASY_NOVEL = tuple("lion bear parrot crab tulip pear ice_cream motorcycle helicopter trumpet top_hat camera".split())
MEDIUM_PERCENT = 38  # share of the remaining head nouns that the medium level adds to the easy ones

COCO_SIZES = ((640, 480), (480, 640), (640, 427), (500, 375), (512, 512))
SPLIT_NUMBERS = {
    "train": 0, "val": 1, "testA": 2, "testB": 3, "novel": 4, "style": 5, "multi": 6, "none": 7, "reason": 8,
    "dev": 9, "test": 10,
}  # fmt: skip
EASY_SPLITS = {"val": 350, "testA": 250, "testB": 250, "novel": 250, "style": 250}
ALL_SPLITS = EASY_SPLITS | {"multi": 250, "none": 250, "reason": 250}
STYLES = ("refcoco", "refcoco+", "refcocog")
EASY_KINDS = frozenset("name color size position color+size color+position relation".split())
MEDIUM_KINDS = EASY_KINDS | frozenset("corner middle order depth tilt".split())
FULL_KINDS = MEDIUM_KINDS | frozenset("hidden cropped color+hidden relation+relation".split())
SIDES = ("left", "right")
PLANE = (*SIDES, "above", "below", "near")
SPACE = (*PLANE, "front", "behind")


@dataclass(frozen=True)
class Level:
    """Everything that distinguishes a level. Lengths are shares of sqrt(width * height), areas of width * height."""

    name: str
    canvas: tuple[tuple[int, int], ...]  # (width, height) of training images, one is drawn per scene
    canvas_eval: tuple[tuple[int, int], ...]
    bank_height: int  # pixels of the stored backgrounds
    backgrounds: int  # per kind, in the training bank
    objects: tuple[int, int]
    mean_objects: float | None  # Poisson, clipped to `objects`; None: uniform
    focus: tuple[int, int]  # how many classes come in several copies
    copies: tuple[int, int]  # how many copies these have
    recoloured: float  # share of the man-made objects that change their hue
    zoom: tuple[float, float]  # log-median and log-sigma of the size of an object of relative size 1
    layouts: tuple[float, float, float]  # odds of scattered, clustered, rows
    visible: float  # no object keeps less of its area than this ...
    crowded: tuple[float, float]  # ... but in this share of the scenes the limit is the second number
    sticking_out: float  # share of the objects that the border may cut
    tilt: dict[str, float]  # standard deviation in degrees, by mode
    any_angle: float  # share of the objects seen from above that lie at any angle
    kinds: frozenset[str]  # of expressions
    relations: tuple[str, ...]  # to other objects
    general_words: bool  # whether "animal", "vehicle" are used
    referents: int  # most referents of a training scene
    small_odds: float  # that a small object is asked for: tuned to 13 % of referents below 4 % of the image
    smallest: float  # least visible area of a referent
    splits: dict[str, int]  # evaluation split -> number of referents
    version: int = 1
    # share of stretched drawings, and sigma of the log of their factor; more are made tall than wide
    stretched: tuple[float, float] = (0.0, 0.0)
    cut: tuple[float, float] = (0.25, 0.25)  # least and most of a cut object's length that lies outside
    covers: tuple[float, int] = (0.0, 0)  # share of scenes with bars and discs in front, and how many at most
    sealed: dict[str, int] = field(default_factory=dict)  # split that follows the build's seed -> number of scenes

    @property
    def key(self) -> str:
        """The name by which a profile asks for it."""
        return self.name if self.version == 1 else f"{self.name}-{self.version}"

    @property
    def special(self) -> bool:
        """Whether there are expressions for several objects, for none, and by what a thing is for."""
        return "multi" in self.splits

    @property
    def themed(self) -> bool:
        """Whether scenes keep to a theme (street, desk); if not, anything stands beside anything."""
        return self.name != "easy"


EASY = Level(
    name="easy", canvas=((224, 224),), canvas_eval=((224, 224),), bank_height=288, backgrounds=8,
    objects=(3, 6), mean_objects=None, focus=(1, 1), copies=(2, 3), recoloured=0.75, zoom=(-1.18, 0.24),
    layouts=(1.0, 0.0, 0.0), visible=0.85, crowded=(0.0, 0.85), sticking_out=0.0,
    tilt={"top": 12, "float": 12, "ground": 3}, any_angle=0.0,
    kinds=EASY_KINDS, relations=SIDES, general_words=False, referents=6, small_odds=0.19, smallest=0.006,
    splits=EASY_SPLITS,
)  # fmt: skip

MEDIUM = Level(
    name="medium", canvas=((320, 320),), canvas_eval=((320, 320), (384, 288), (288, 384)), bank_height=384,
    backgrounds=6, objects=(3, 9), mean_objects=6.0, focus=(1, 2), copies=(2, 3), recoloured=0.65,
    zoom=(-1.2, 0.25), layouts=(0.6, 0.2, 0.2), visible=0.7, crowded=(0.2, 0.5), sticking_out=0.08,
    tilt={"top": 20, "float": 12, "ground": 3}, any_angle=0.15, kinds=MEDIUM_KINDS, relations=PLANE,
    general_words=True, referents=6,
    small_odds=0.17, smallest=0.004,
    splits=ALL_SPLITS,
)  # fmt: skip

FULL = Level(
    name="full", canvas=((448, 448),), canvas_eval=COCO_SIZES, bank_height=512, backgrounds=6, objects=(3, 13),
    mean_objects=8.0, focus=(1, 2), copies=(2, 4), recoloured=0.62, zoom=(-1.27, 0.27),
    layouts=(0.6, 0.2, 0.2), visible=0.6, crowded=(0.35, 0.3), sticking_out=0.15,
    tilt={"top": 25, "float": 12, "ground": 3}, any_angle=0.25,
    kinds=FULL_KINDS, relations=SPACE, general_words=True, referents=6, small_odds=0.13, smallest=0.0025,
    splits=ALL_SPLITS,
)  # fmt: skip

SHAPES = {"version": 2, "stretched": (0.7, 0.8), "cut": (0.05, 0.4), "sealed": {"test": 250}}
EASY_2 = replace(
    EASY, **SHAPES, sticking_out=0.12, covers=(0.25, 2), splits={"dev": 250, **EASY_SPLITS},
)  # fmt: skip
FULL_2 = replace(
    FULL, **SHAPES, sticking_out=0.22, covers=(0.35, 3), splits={"dev": 250, **EASY_SPLITS, "multi": 250, "none": 250},
)  # fmt: skip

LEVELS = {level.key: level for level in (EASY, MEDIUM, FULL, EASY_2, FULL_2)}


def level_named(name: str) -> Level:
    """The level of that name, or a UserError that lists the names."""
    if name not in LEVELS:
        raise UserError(f"There is no level {name!r}; choose one of {', '.join(LEVELS)}.")
    return LEVELS[name]


@cache
def classes(level: str) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """The entries a level trains on, and those it holds out for the split `novel`. The two share no head noun."""
    words = lexicon()
    easy = [words[sprite] for sprite in EASY_CLASSES]
    easy_novel = [words[sprite] for sprite in EASY_NOVEL]
    if level == "easy":
        return tuple(easy), tuple(easy_novel)
    easy_heads = {entry.head for entry in easy}
    novel_heads = {entry.head for entry in easy_novel}
    trained, novel = [], []
    for entry in words.entries.values():
        held_out = not entry.person and entry.head not in easy_heads
        if held_out and (entry.head in novel_heads or words.novel(entry.head)):
            novel.append(entry)
        elif level == "full" or entry.head in easy_heads or _medium(entry.head):
            trained.append(entry)
    return tuple(trained), tuple(novel)


def _medium(head: str) -> bool:
    return zlib.crc32(b"medium " + head.encode()) % 100 < MEDIUM_PERCENT
