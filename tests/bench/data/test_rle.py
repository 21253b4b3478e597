"""Run lengths are read as pycocotools reads them, and what would make it read past its memory is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from bench.data import rle

sides = st.integers(1, 40)
masks = st.tuples(sides, sides).flatmap(lambda shape: arrays(np.bool_, shape))


@settings(max_examples=200, deadline=None)
@given(masks)
def test_all_forms_of_a_mask_are_read_alike(mask):
    code = rle.encode(mask)
    height, width = mask.shape
    flat = mask.flatten("F")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat])) != 0)
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    parts = [rle.encode(mask & (np.arange(width) % 2 == side)) for side in (0, 1)]
    for form in (code, code | {"counts": code["counts"].encode()}, code | {"counts": counts}, parts):
        found = rle.rasterize(form, height, width)
        assert found.dtype == bool and np.array_equal(found, mask)
    assert np.array_equal(rle.decode(code), coco.decode(code | {"counts": code["counts"].encode()}))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**20), min_size=1, max_size=30))
def test_long_runs_are_read_as_they_were_written(runs):
    code = coco.frPyObjects({"size": [sum(runs), 1], "counts": runs}, sum(runs), 1)["counts"]
    assert rle._decompressed(code).tolist() == runs


@pytest.mark.parametrize(("counts", "told"), [
    ("", "do not cover"), ("~", "character outside"), ("P", "end within a number"), ("P" * 7 + "0", "too long"),
    ("5O", "negative run"), ("4", "do not cover"),
])  # fmt: skip
def test_what_is_no_run_length_code(counts, told):
    with pytest.raises(ValueError, match=told):
        rle.rasterize({"size": [3, 3], "counts": counts}, 3, 3)
