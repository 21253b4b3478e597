"""The reader under its earlier name."""

from bench.data.refer import ReferDataset


def test_the_earlier_names_still_read(easy_root):
    with_images, without = (ReferDataset(easy_root, "val", opens_pictures=opens) for opens in (True, False))
    assert len(with_images) == len(without) > 0
    assert with_images[0].expressions == without[0].expressions
