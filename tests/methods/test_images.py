"""Images of every kind become upright RGB; what is no image becomes one sentence."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from methods.base import UserError
from methods.images import open_image

ORIENTATION = 0x0112
PIXELS = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
IMAGE = Image.fromarray(PIXELS)


def written(tmp_path, name: str, image: Image.Image, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def pixels(source) -> np.ndarray:
    image = open_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def refusal(source) -> str:
    """The message of the UserError that opening the source raises: one line that names it."""
    with pytest.raises(UserError) as caught:
        open_image(source)
    message = str(caught.value)
    assert "\n" not in message
    assert str(source) in message
    return message


def test_rgb_is_left_as_it_is(tmp_path):
    assert np.array_equal(pixels(written(tmp_path, "a.png", IMAGE)), PIXELS)
    assert open_image(IMAGE) is IMAGE
    assert np.array_equal(pixels(str(written(tmp_path, "b.png", IMAGE))), PIXELS)


def test_grey_is_repeated(tmp_path):
    grey = PIXELS[..., 0]
    found = pixels(written(tmp_path, "a.png", Image.fromarray(grey)))
    assert all(np.array_equal(found[..., channel], grey) for channel in range(3))


def test_bilevel_becomes_black_and_white(tmp_path):
    found = pixels(written(tmp_path, "a.png", Image.fromarray(PIXELS[..., 0] > 100)))
    assert set(np.unique(found)) == {0, 255}


def test_transparency_lies_over_white(tmp_path):
    image = IMAGE.convert("RGBA")
    image.putalpha(Image.fromarray(np.uint8(np.where(np.arange(30) < 10, 0, 255))[None].repeat(20, 0)))
    found = pixels(written(tmp_path, "a.png", image))
    assert (found[:, :10] == 255).all()
    assert np.array_equal(found[:, 10:], PIXELS[:, 10:])
    assert np.array_equal(pixels(image), found)


def test_half_transparency_is_mixed_with_white():
    assert pixels(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))[0, 0] == pytest.approx([127] * 3, abs=1)
    assert pixels(Image.new("LA", (1, 1), (0, 128)))[0, 0] == pytest.approx([127] * 3, abs=1)


def test_palette_with_a_transparent_entry(tmp_path):
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
    image.paste(2, (0, 0, 2, 2))
    found = pixels(written(tmp_path, "a.png", image, transparency=1))
    assert found[0, 0].tolist() == [40, 50, 60]
    assert found[0, 3].tolist() == [255, 255, 255]
    assert pixels(written(tmp_path, "b.png", image))[0, 3].tolist() == [10, 20, 30]


def test_a_transparent_colour_of_an_rgb_file(tmp_path):
    image = Image.new("RGB", (4, 2), (1, 2, 3))
    image.paste((9, 9, 9), (0, 0, 2, 2))
    found = pixels(written(tmp_path, "a.png", image, transparency=(1, 2, 3)))
    assert found[0].tolist() == [[9, 9, 9]] * 2 + [[255, 255, 255]] * 2


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    deep = np.linspace(0, 40000, 600).reshape(20, 30).astype(np.uint16)
    found = pixels(written(tmp_path, "a.png", Image.fromarray(deep)))
    assert found.max() == 255
    assert np.abs(found[..., 0] - deep * (255 / 40000)).max() <= 1
    assert (pixels(Image.fromarray(np.zeros((2, 2), np.uint16))) == 0).all()


def test_float_images_are_scaled_too():
    assert pixels(Image.fromarray(np.float32([[0, 2000], [-5, 1000]]))).tolist()[0] == [[0] * 3, [255] * 3]


def test_cmyk(tmp_path):
    found = pixels(written(tmp_path, "a.tiff", Image.new("CMYK", (3, 2), (0, 255, 255, 0))))
    assert found[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # the upper left quarter is white
    turned = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
              5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2),
              8: np.rot90(upright, 3)}[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turned))
    path = written(tmp_path, "a.jpg", stored, exif=exif, quality=95)
    found = pixels(path)
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 5
    assert np.array_equal(pixels(Image.open(path)), found)


@pytest.mark.parametrize("cut", [20, 300, 700])
def test_a_truncated_jpeg_is_refused(tmp_path, cut):
    path = written(tmp_path, "a.jpg", IMAGE.resize((200, 200)))
    path.write_bytes(path.read_bytes()[:cut])
    assert "not a readable image" in refusal(path)


def test_what_is_no_image_is_refused(tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("not an image")
    assert "not a readable image" in refusal(text)
    empty = tmp_path / "empty.jpg"
    empty.touch()
    assert "not a readable image" in refusal(empty)
    assert "not a readable image" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "none.png")
    assert "not a readable image" in refusal(text / "below-a-file.png")


FORMATS = {
    name: buffer.getvalue()
    for name in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "TGA")
    for buffer in [io.BytesIO()]
    if IMAGE.save(buffer, name) is None
}


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=250, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_a_damaged_file_is_an_image_or_a_user_error(tmp_path_factory, name, data):
    content = bytearray(FORMATS[name])
    for _ in range(data.draw(st.integers(0, 6), "changes")):
        content[data.draw(st.integers(0, len(content) - 1), "place")] = data.draw(st.integers(0, 255), "byte")
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)), "length")])
    try:
        assert open_image(path).mode == "RGB"
    except UserError as error:
        assert str(path) in str(error)
