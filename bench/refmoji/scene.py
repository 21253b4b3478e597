"""A scene as numbers: what stands where. Enough to draw the image again, small enough to be committed as JSON."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Placed:
    """One object. Lengths in pixels; `size` is the geometric mean of the sides of the drawing as it appears."""

    sprite: str
    hue: int | None  # index into assets.HUES, None: as drawn
    x: float  # centre of the drawing
    y: float
    size: float
    angle: float  # degrees, clockwise
    mirrored: bool
    gain: float  # brightness of this object
    stretch: float = 1.0  # factor on the drawing's own ratio of width to height


@dataclass(frozen=True)
class Backdrop:
    """A crop of a stored background, in its pixels, stretched to the canvas."""

    kind: str
    number: int
    left: int
    top: int
    width: int
    height: int
    mirrored: bool


@dataclass(frozen=True)
class Cover:
    """A plain thing in front of all objects: a bar, which cuts what lies behind it into parts, or a disc, which makes
    a hole in it. It is no object. Lengths in pixels; a disc's diameter is its width."""

    kind: str  # bar, disc
    x: float  # its centre
    y: float
    length: float
    width: float
    angle: float  # degrees, clockwise
    shade: int  # index into render.SHADES


@dataclass(frozen=True)
class Scene:
    """A whole image. Objects are in drawing order, the farthest first; their position is their number."""

    width: int
    height: int
    pack: str  # of sprites
    bank: str  # of backgrounds
    theme: str
    mode: str  # ground, top, float
    horizon: float | None  # share of the height, where there is one
    backdrop: Backdrop
    light: tuple[float, float, float]  # gain of red, green, blue
    soft: float  # radius in pixels of the final blur
    contrast: float
    brightness: float
    objects: tuple[Placed, ...]
    covers: tuple[Cover, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A compact, JSON-ready form without what has its default; `from_json` is its exact inverse."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__}
        record["light"] = list(self.light)
        record["backdrop"] = _values(self.backdrop)
        record["objects"] = [_values(item) for item in self.objects]
        covers = [_values(item) for item in record.pop("covers")]
        return record | ({"covers": covers} if covers else {})

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Scene:
        """The scene of a record made by `to_json`."""
        left, top, width, height, mirrored = record["backdrop"][2:]
        kind, number = record["backdrop"][:2]
        found = dict(record)
        found["light"] = tuple(record["light"])
        found["backdrop"] = Backdrop(kind, number, left, top, width, height, bool(mirrored))
        found["objects"] = tuple(Placed(*item[:6], bool(item[6]), *item[7:]) for item in record["objects"])
        found["covers"] = tuple(Cover(*item) for item in record.get("covers", ()))
        return cls(**found)


def _values(item: Placed | Backdrop | Cover) -> list[Any]:
    """The fields in order; a last one that has its default is left out."""
    values = [getattr(item, field.name) for field in fields(item)]
    last = fields(item)[-1].default
    values = values[:-1] if last is not MISSING and values[-1] == last else values
    return [int(value) if isinstance(value, bool) else value for value in values]
