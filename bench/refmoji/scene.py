"""A scene as numbers: what stands where. Enough to draw the picture again, small enough to be committed as JSON."""

from __future__ import annotations

from dataclasses import dataclass
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
class Scene:
    """A whole picture. Objects are in drawing order, the farthest first; their position is their number."""

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

    def to_json(self) -> dict[str, Any]:
        """A compact, JSON-ready form; `from_json` is its exact inverse."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__}
        record["light"] = list(self.light)
        record["backdrop"] = _values(self.backdrop)
        record["objects"] = [_values(item) for item in self.objects]
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Scene:
        """The scene of a record made by `to_json`."""
        left, top, width, height, mirrored = record["backdrop"][2:]
        kind, number = record["backdrop"][:2]
        fields = dict(record)
        fields["light"] = tuple(record["light"])
        fields["backdrop"] = Backdrop(kind, number, left, top, width, height, bool(mirrored))
        fields["objects"] = tuple(Placed(*item[:6], bool(item[6]), item[7]) for item in record["objects"])
        return cls(**fields)


def _values(item: Placed | Backdrop) -> list[Any]:
    values = [getattr(item, name) for name in item.__dataclass_fields__]
    return [int(value) if isinstance(value, bool) else value for value in values]
