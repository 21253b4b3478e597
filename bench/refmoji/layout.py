"""Composing a scene: theme, cast, sizes, places. Everything random comes from one generator per scene.

How much of each object stays visible decides whether a place is good, so silhouettes are drawn while placing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from bench.refmoji.assets import HUES, Pack
from bench.refmoji.backgrounds import BackgroundBank
from bench.refmoji.levels import Level
from bench.refmoji.lexicon import Entry, lexicon
from bench.refmoji.render import SHADES, extent, silhouette
from bench.refmoji.scene import Backdrop, Cover, Placed, Scene

EASY_BACKGROUNDS = tuple("meadow street desert snow room wood cloth marble concrete carpet plain court".split())
ATTEMPTS = 6  # places tried for one object
LARGEST = 0.62  # of the canvas side, for the longer side of an object
SMALLEST = 13.0  # pixels, for the longer side
COLOURFUL = 0.35  # share of the classes in several copies that are drawn from those in many colours
ENLARGED = 2.2  # times the drawing's own size, at most
LEAST_PIXELS = 48  # opaque pixels of an object
ZOOM_GROUND = -0.13  # objects on the ground are drawn a little smaller

T = TypeVar("T")


@dataclass(frozen=True)
class Cast:
    """Who may appear: `stars` are drawn first, in several copies; `extras` fill the scene."""

    stars: tuple[Entry, ...]
    extras: tuple[Entry, ...]


@dataclass(frozen=True)
class Setting:
    """Where a scene takes place."""

    theme: str
    mode: str
    horizon: float | None
    backdrop: Backdrop
    cast: Cast


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One item, all equally likely."""
    return items[int(rng.integers(0, len(items)))]


def compose(level: Level, cast: Cast, pack: Pack, bank: BackgroundBank, rng: np.random.Generator) -> Scene:
    """A new scene of the level with that cast."""
    while True:
        scene = _attempt(level, cast, pack, bank, rng)
        if len(scene.objects) >= level.objects[0]:
            return scene


def _attempt(level: Level, cast: Cast, pack: Pack, bank: BackgroundBank, rng: np.random.Generator) -> Scene:
    sizes = level.canvas if bank.bank == "train" else level.canvas_eval
    width, height = pick(rng, sizes)
    setting = _setting(level, cast, bank, rng, width, height)
    chosen = _chosen(level, setting.cast, rng)
    tint = rng.uniform(0.86, 1.12) * rng.uniform(0.94, 1.06, 3)
    placer = _Placer(level, setting, pack, rng, width, height)
    for entry, (u, v) in placer.order(chosen):
        placer.add(entry, u, v)
    return Scene(
        width=width, height=height, pack=pack.name, bank=bank.bank, theme=setting.theme, mode=setting.mode,
        horizon=setting.horizon, backdrop=setting.backdrop, light=tuple(round(float(value), 3) for value in tint),
        soft=round(float(rng.uniform(0.4, 1.0)), 2) if rng.random() < 0.3 else 0.0,
        contrast=round(float(rng.uniform(0.9, 1.1)), 3), brightness=round(float(rng.uniform(-8, 12)), 1),
        objects=tuple(placer.objects), covers=_covers(level, placer, rng),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- theme and backdrop
def _setting(
    level: Level, cast: Cast, bank: BackgroundBank, rng: np.random.Generator, width: int, height: int
) -> Setting:
    while True:
        if level.themed:
            theme = pick(rng, list(lexicon().table["themes"]))
            facts = lexicon().table["themes"][theme]
            kind, mode, subgroups = pick(rng, facts["backgrounds"]), facts["mode"], set(facts["subgroups"])
        else:
            theme, kind, mode = "any", pick(rng, EASY_BACKGROUNDS), pick(rng, ("top", "float", "ground"))
            subgroups = {entry.subgroup for entry in cast.extras + cast.stars}
        number = bank.choose(rng, kind)
        subgroups -= set(bank.shows(kind, number))
        allowed = Cast(
            tuple(entry for entry in cast.stars if entry.subgroup in subgroups),
            tuple(entry for entry in cast.extras if entry.subgroup in subgroups),
        )
        if allowed.stars and len(allowed.extras) > 1:
            break
    backdrop, horizon = _crop(bank, kind, number, rng, width / height)
    if mode == "ground" and horizon is None:
        mode = "float" if kind == "photo" else "top"
    return Setting(theme, mode, horizon, backdrop, allowed)


def _crop(
    bank: BackgroundBank, kind: str, number: int, rng: np.random.Generator, aspect: float
) -> tuple[Backdrop, float | None]:
    """A part of a background with the canvas' aspect that keeps the horizon in its upper half."""
    stored = bank.get(kind, number)
    tall, wide = stored.pixels.shape[:2]
    height = int(tall * rng.uniform(0.72, 1.0))
    width = int(height * aspect)
    if width > wide:
        width, height = wide, int(wide / aspect)
    left = int(rng.integers(0, wide - width + 1))
    highest = tall - height
    if stored.horizon is not None:
        highest = min(highest, int(tall * stored.horizon * 0.35))
    top = int(rng.integers(0, highest + 1))
    horizon = None if stored.horizon is None else round(max(0.05, (stored.horizon * tall - top) / height), 3)
    return Backdrop(kind, number, left, top, width, height, bool(rng.random() < 0.5)), horizon


# ---------------------------------------------------------------------------------------------------------- covers
def _covers(level: Level, placer: _Placer, rng: np.random.Generator) -> tuple[Cover, ...]:
    """Bars through some object and discs within it, thin enough to leave most of it."""
    share, most = level.covers
    if not share or not placer.objects or rng.random() >= share:
        return ()
    return tuple(_cover(placer, rng) for _ in range(int(rng.integers(1, most + 1))))


def _cover(placer: _Placer, rng: np.random.Generator) -> Cover:
    item = pick(rng, placer.objects)
    half_x, half_y = extent(placer.pack, item)
    thickness = max(3.0, 2 * min(half_x, half_y) * rng.uniform(0.1, 0.25))
    x, y = (float(c + h * rng.uniform(-0.25, 0.25)) for c, h in ((item.x, half_x), (item.y, half_y)))
    angle, shade = round(float(rng.choice((0, 90)) + rng.normal(0, 15)), 1), int(rng.integers(0, len(SHADES)))
    if rng.random() < 0.35:
        return Cover("disc", round(x, 1), round(y, 1), 0.0, round(1.7 * thickness, 1), 0.0, shade)
    length = 2.0 * (placer.width + placer.height) if rng.random() < 0.5 else 3.0 * max(half_x, half_y)
    return Cover("bar", round(x, 1), round(y, 1), round(length, 1), round(thickness, 1), angle, shade)


# --------------------------------------------------------------------------------------------------------- objects
def _chosen(level: Level, cast: Cast, rng: np.random.Generator) -> list[Entry]:
    low, high = level.objects
    drawn = rng.integers(low, high + 1) if level.mean_objects is None else rng.poisson(level.mean_objects)
    count = int(np.clip(drawn, low, high))
    chosen: list[Entry] = []
    for _ in range(int(rng.integers(level.focus[0], level.focus[1] + 1))):
        colourful = [entry for entry in cast.stars if entry.recoloured] if rng.random() < COLOURFUL else []
        star = pick(rng, colourful or cast.stars)
        kin = [entry for entry in cast.stars + cast.extras if entry.head == star.head]
        copies = int(rng.integers(level.copies[0], level.copies[1] + 1))
        chosen += [star] + [pick(rng, kin) if rng.random() < 0.6 else star for _ in range(copies - 1)]
    groups = sorted({entry.subgroup for entry in cast.extras})
    while len(chosen) < count:
        if level.themed:  # every subgroup of the theme is equally likely, however many drawings it has
            group = pick(rng, groups)
            chosen.append(pick(rng, [entry for entry in cast.extras if entry.subgroup == group]))
        else:
            chosen.append(pick(rng, cast.extras))
    return [chosen[index] for index in rng.permutation(len(chosen[:high]))]


class _Placer:
    """Puts objects on a canvas one by one, back to front, and remembers what is covered."""

    def __init__(
        self, level: Level, setting: Setting, pack: Pack, rng: np.random.Generator, width: int, height: int
    ) -> None:
        self.level, self.setting, self.pack, self.rng = level, setting, pack, rng
        self.width, self.height = width, height
        self.zoom = math.exp(rng.normal(level.zoom[0] + ZOOM_GROUND * (setting.mode == "ground"), level.zoom[1]))
        self.visible = level.crowded[1] if rng.random() < level.crowded[0] else level.visible
        self.objects: list[Placed] = []
        self.full: list[int] = []  # opaque pixels of each object
        self.seen: list[int] = []  # of these, not yet covered
        self.ids = np.zeros((height, width), np.uint8)
        odds = np.array(level.layouts)
        self.layout = ("scattered", "clustered", "rows")[int(rng.choice(3, p=odds / odds.sum()))]
        self.middle = rng.uniform(0.3, 0.7, 2)
        self.spots: list[tuple[float, float]] = []

    def order(self, chosen: Sequence[Entry]) -> list[tuple[Entry, tuple[float, float]]]:
        """Give every object a spot (shares of width and depth); on the ground the farthest come first."""
        rows = int(self.rng.integers(1, 4))
        columns = math.ceil(len(chosen) / rows)
        for number in range(len(chosen)):
            if self.layout == "rows":
                u = (number // rows + 0.5) / columns + self.rng.normal(0, 0.02)
                v = (number % rows + 0.5) / rows + self.rng.normal(0, 0.02)
                self.spots.append((float(u), float(v)))
            else:
                self.spots.append(self._spot())
        pairs = list(zip(chosen, self.spots, strict=True))
        return sorted(pairs, key=lambda pair: pair[1][1]) if self.setting.mode == "ground" else pairs

    def _spot(self) -> tuple[float, float]:
        if self.layout == "clustered":
            u, v = np.clip(self.rng.normal(self.middle, 0.22), 0.04, 0.96)
            return float(u), float(v)
        best, farthest = (0.5, 0.5), -1.0
        for _ in range(4):
            u, v = (float(value) for value in self.rng.uniform(0.05, 0.95, 2))
            distance = min((abs(u - x) + abs(v - y) for x, y in self.spots), default=9.0)
            if distance > farthest:
                best, farthest = (u, v), distance
        return best

    def add(self, entry: Entry, u: float, v: float) -> None:
        """Place an object near its spot, or elsewhere if it hides too much there; give up after some attempts."""
        rng, mode = self.rng, self.setting.mode
        hue = int(rng.integers(0, len(HUES))) if entry.recoloured and rng.random() < self.level.recoloured else None
        relative = entry.size**0.55 * math.exp(rng.normal(0, 0.28))
        jitter = math.exp(rng.normal(0, 0.18))
        angle = rng.normal(0, self.level.tilt[mode])
        if mode == "top" and rng.random() < self.level.any_angle:
            angle = rng.uniform(-180, 180)
        outside = self.level.cut[0] if rng.random() < self.level.sticking_out else 0.0
        stretch = 1.0
        if self.level.version > 1:
            stretch = self._stretch()
            outside, u, v = self._at_border(outside, u, v)
        mirrored, gain = bool(rng.random() < 0.5), round(float(rng.uniform(0.93, 1.07)), 3)
        for _ in range(ATTEMPTS):
            size = self._size(entry, relative, jitter, v, stretch)
            item = Placed(entry.id, hue, 0.0, 0.0, round(size, 1), round(float(angle), 1), mirrored, gain, stretch)
            item = self._moved(item, u, v, outside)
            if self._accept(item):
                return
            u, other = self._spot()
            v = v if mode == "ground" else other

    def _stretch(self) -> float:
        """A factor on the ratio of width to height, within 1/5 to 5; 1 for the share that is drawn as it is."""
        share, sigma = self.level.stretched
        if self.rng.random() >= share:
            return 1.0
        return round(math.exp(float(np.clip(self.rng.normal(-0.1, sigma), -math.log(5), math.log(5)))), 2)

    def _at_border(self, outside: float, u: float, v: float) -> tuple[float, float, float]:
        """How much of an object may lie outside, and for one that the border may cut a spot at the border."""
        if not outside:
            return outside, u, v
        outside = float(self.rng.uniform(*self.level.cut))
        side = int(self.rng.integers(0, 2 if self.setting.mode == "ground" else 4))
        return outside, *((float(side), v) if side < 2 else (u, float(side - 2)))

    def _size(self, entry: Entry, relative: float, jitter: float, v: float, stretch: float) -> float:
        """The geometric mean of the drawn sides in pixels; nearer objects on the ground are larger."""
        size = 1.15 * self.zoom * relative * math.sqrt(self.width * self.height)
        if self.setting.mode == "ground":
            depth = (1 - self._horizon) * (0.08 + 0.92 * v)
            size *= 1.15 * (0.42 + 1.25 * depth / max(0.3, 1 - self._horizon))
        else:
            size *= jitter
        aspect = math.sqrt(self.pack.aspect(entry.id) * stretch)
        longer = max(aspect, 1 / aspect)
        native = math.sqrt(math.prod(self.pack.sizes[entry.id]))
        size = min(size, ENLARGED * native, LARGEST * self.width / aspect, LARGEST * self.height * aspect)
        return max(size, SMALLEST / longer)

    @property
    def _horizon(self) -> float:
        return self.setting.horizon or 0.0

    def _moved(self, item: Placed, u: float, v: float, outside: float) -> Placed:
        """The object centred at its spot, or with its foot there on the ground, kept inside but for `outside`."""
        half_x, half_y = extent(self.pack, item)
        x, y = u * self.width, v * self.height
        if self.setting.mode == "ground":
            y = (self._horizon + (1 - self._horizon) * (0.08 + 0.92 * v)) * self.height - half_y
        reach_x, reach_y = half_x * (1 - 2 * outside), half_y * (1 - 2 * outside)
        x = min(max(x, reach_x), self.width - reach_x)
        y = min(max(y, reach_y), self.height - reach_y)
        return replace(item, x=round(x, 1), y=round(y, 1))

    def _accept(self, item: Placed) -> bool:
        """Take the object if it is large enough and leaves enough of all others to be seen."""
        found = silhouette(self.pack, item, self.width, self.height)
        if found is None:
            return False
        left, top, opaque = found
        area = int(np.count_nonzero(opaque))
        if area < LEAST_PIXELS:
            return False
        window = self.ids[top : top + opaque.shape[0], left : left + opaque.shape[1]]
        covered = np.bincount(window[opaque], minlength=len(self.objects) + 1)[1:].tolist()
        for hidden, seen, full in zip(covered, self.seen, self.full, strict=True):
            if hidden and seen - hidden < self.visible * full:
                return False
        self.seen = [seen - hidden for seen, hidden in zip(self.seen, covered, strict=True)] + [area]
        self.objects.append(item)
        self.full.append(area)
        window[opaque] = len(self.objects)
        return True
