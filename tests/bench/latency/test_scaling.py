"""Points of growing size, each the same request but for one thing."""

import pytest

from bench.latency.scaling import COUNTS, GRIDS, points, scale
from methods.base import Request
from methods.internvl.tiles import make_tiles


@pytest.fixture
def requests(examples):
    return [Request(example.image, example.expressions[:1]) for example in examples]


def test_one_thing_grows_on_each_axis(writer, requests):
    found = list(points(writer, requests, tile=448))
    axes = {axis: {units: asked for a, units, asked in found if a == axis} for axis, _, _ in found}
    assert set(axes) == {"images", "expressions", "tiles", "tokens"}
    for units, asked in axes["images"].items():
        assert len(asked) == len({id(request.image) for request in asked}) == units
    for units, asked in axes["expressions"].items():
        assert len(asked) == units and len({id(request.image) for request in asked}) == 1
    for units, asked in axes["tiles"].items():
        assert len(make_tiles(asked[0].image, 448, 12)) == units
    assert tuple(axes["tokens"]) == writer.mask_tokenizer.prefixes
    assert list(axes["tiles"]) == [1, 3, 5] and len(GRIDS) == 3


def test_each_point_is_a_record(writer, writing, requests, monkeypatch):
    monkeypatch.setattr("bench.latency.scaling.COUNTS", (1, 2))
    identity = dict(method=writer.name, dataset="d", split="val")
    records = scale(writing(writer), requests, 2, 0, **identity)
    points = [(record.axis, record.units) for record in records]
    assert points[:4] == [(axis, n) for axis in ("images", "expressions") for n in (1, 2)]
    assert len(points) == 4 + len(writer.mask_tokenizer.prefixes)
    assert all(record.low <= record.value <= record.high and record.n == 2 for record in records)
    assert COUNTS == (1, 2, 4, 8)
