"""Soft masks to the image's size."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from methods.common.masks import nearest_indices, nearest_mask


@settings(max_examples=200, deadline=None)
@given(source=st.integers(1, 300), target=st.integers(1, 1500))
def test_each_pixel_takes_the_one_that_pillow_takes(source, target):
    row = Image.fromarray(np.arange(source, dtype=np.float32)[None])
    wanted = np.asarray(row.resize((target, 1), Image.Resampling.NEAREST))[0]
    assert np.array_equal(nearest_indices(source, target), wanted.astype(int))


def test_a_soft_mask_is_resized_before_the_threshold():
    soft = torch.rand(256, 256, generator=torch.Generator().manual_seed(0))
    wanted = np.asarray(Image.fromarray(soft.numpy()).resize((640, 480), Image.Resampling.NEAREST)) > 0.5
    assert np.array_equal(nearest_mask(soft, (480, 640)), wanted)
