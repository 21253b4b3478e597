"""`genseg segment` on the images that people have."""

import numpy as np
import pytest
from PIL import Image

from bench.config import EvaluateConfig
from bench.inference import segment
from methods.base import Decoding, Prediction

SIDE = {"width": 70, "height": 50}


@pytest.fixture(scope="module")
def models(build, writing, tmp_path_factory):
    """Folders of two small models that answer every prompt with a mask."""
    folders = {}
    for name in ("himtok", "argenseg"):
        method = writing(build(name, **({"mask_tokenizer_config": "short"} if name == "argenseg" else {})))
        folders[name] = tmp_path_factory.mktemp(name)
        method.save_pretrained(folders[name], "float16")
    return folders


@pytest.fixture
def ask(genseg, models, tmp_path):
    """ask(image's path, *words) -> the result of `genseg segment` with a small model and out.png."""

    def asked(path, *words, expression="the Red square", method="himtok", out=None):
        out = out or tmp_path / "out.png"
        return genseg("segment", path, expression, f"--checkpoint={models[method]}", "--method", method, "--out", out,
                      *words)  # fmt: skip

    return asked


def noise(width=70, height=50) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(50, 70).save(path, exif=exif)


IMAGES = {
    "rgb.png": lambda path: noise().save(path),
    "rgba.png": lambda path: noise().convert("RGBA").save(path),
    "palette.png": lambda path: noise().convert("P").save(path, transparency=3),
    "palette.gif": lambda path: noise().convert("P").save(path),
    "grey.png": lambda path: noise().convert("L").save(path),
    "deep.png": lambda path: Image.fromarray(np.arange(3500, dtype=np.uint16).reshape(50, 70) * 11).save(path),
    "cmyk.jpg": lambda path: noise().convert("CMYK").save(path),
    "rotated.jpg": rotated,
    "web.webp": lambda path: noise().save(path),
}


def test_the_clock_waits_for_the_device_at_each_stage():
    decoding = segment.timed(EvaluateConfig(decode_rules=["expected", "hard"]))
    assert (decoding.timing, decoding.rule) == ("stages", "expected")


@pytest.mark.parametrize("name", IMAGES)
def test_images_of_every_kind(ask, tmp_path, name):
    IMAGES[name](tmp_path / name)
    result = ask(tmp_path / name)
    assert result.code == 0, result.err
    with Image.open(tmp_path / "out.png") as overlay:
        assert (overlay.size, overlay.mode) == ((70, 50), "RGB")


@pytest.mark.parametrize("size", [(1, 1), (3000, 20), (20, 3000), (2, 1)])
def test_images_of_every_size(ask, tmp_path, size):
    noise(*size).save(tmp_path / "a.png")
    assert ask(tmp_path / "a.png").code == 0
    with Image.open(tmp_path / "out.png") as overlay:
        assert overlay.size == size


@pytest.mark.parametrize(("method", "tokens"), [("himtok", 32), ("argenseg", 30)])
def test_the_answer_says_what_was_done(ask, tmp_path, method, tokens):
    noise().save(tmp_path / "a.png")
    lines = ask(tmp_path / "a.png", method=method).out.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'out.png'}: 'the Red square' by {method} (")
    assert f"of the image in {tokens} tokens" in lines[1]
    assert any(line.startswith("time: ") and "vision" in line for line in lines)
    assert lines[-1] == "incomplete answer: no box in the answer"


def test_a_written_box_is_named(ask, tmp_path, monkeypatch):
    class Known:
        decoding = Decoding()

        @classmethod
        def from_pretrained(cls, folder):
            return cls()

        def to(self, device):
            return self

        def segment(self, requests, decoding):
            assert requests[0].expressions == ("the red square",)  # as in the training data, in lower case
            mask = np.zeros((50, 70), bool)
            mask[5:40, 10:60] = True
            return [Prediction(mask, box=(10.0, 5.0, 60.4, 40.0), token_ids=(1, 2), steps=9, seconds={"all": 0.5})]

    monkeypatch.setattr(segment, "method_class", lambda name: Known)
    noise().save(tmp_path / "a.png")
    lines = ask(tmp_path / "a.png", expression="  the Red square ").out.splitlines()
    assert lines[1] == "mask: 50.0% of the image in 2 tokens, 9 model steps"
    assert lines[2] == "box: 10, 5, 60, 40 (x1, y1, x2, y2 in pixels)"
    assert lines[3] == "time: all 500 ms"
    assert len(lines) == 4
    drawn = np.asarray(Image.open(tmp_path / "out.png")).astype(int)
    assert len(np.unique(np.ptp(drawn[:4], 2))) == 1  # grey outside the mask
    assert np.ptp(drawn[20, 30]) > 0


def test_folders_are_made(ask, tmp_path):
    noise().save(tmp_path / "a.png")
    out = tmp_path / "some" / "where" / "out.jpg"
    assert ask(tmp_path / "a.png", out=out).code == 0
    assert out.exists()


def complaint(result) -> str:
    assert result.code == 2
    assert result.err.startswith("genseg: ")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    return result.err


def test_what_is_no_image(ask, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing to see")
    (tmp_path / "notes.png").write_text("nothing to see")
    for name in ("notes.txt", "notes.png"):
        assert f"{name}: not a readable image" in complaint(ask(tmp_path / name))
    assert "none.png: no such file" in complaint(ask(tmp_path / "none.png"))
    assert "not a readable image" in complaint(ask(tmp_path))


@pytest.mark.parametrize("expression", ["", "   ", "the <image>", "a <|im_end|> b"])
def test_expressions_that_say_nothing_or_too_much(ask, tmp_path, expression):
    noise().save(tmp_path / "a.png")
    assert "expression" in complaint(ask(tmp_path / "a.png", expression=expression)).lower()
    assert not (tmp_path / "out.png").exists()


def test_an_expression_may_hold_an_equals_sign(ask, genseg, tmp_path):
    noise().save(tmp_path / "a.png")
    assert ask(tmp_path / "a.png", expression="sign that says a=b").code == 0
    assert "no expression" in complaint(genseg("segment", tmp_path / "a.png", "profile=nano"))


def test_places_that_cannot_be_written(ask, tmp_path):
    noise().save(tmp_path / "a.png")
    for out in (tmp_path / "out.docx", tmp_path / "noending", tmp_path / "a.png" / "out.png"):
        assert "cannot be written" in complaint(ask(tmp_path / "a.png", out=out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


def test_models_that_are_not_there(genseg, ask, models, tmp_path):
    noise().save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    assert "no method called 'sam'" in complaint(genseg("segment", path, "it", "--method", "sam", "--checkpoint", "x"))
    line = complaint(genseg("segment", path, "it", "--checkpoint", tmp_path / "none"))
    assert "none: config.json is missing" in line
    line = complaint(genseg("segment", path, "it", "--method=argenseg", f"--checkpoint={models['himtok']}"))
    assert "holds a 'himtok' model, not 'argenseg'" in line
    assert "has no model of 'sam'" in complaint(genseg("segment", path, "it", "--method", "sam"))


# ---- what is shown instead of words -----------------------------------------------------------------------------


def shown(genseg, models, tmp_path, *words, method="himtok"):
    """`genseg segment` of a.png without an expression."""
    noise().save(tmp_path / "a.png")
    words = [*words, "--method", method, f"--checkpoint={models[method]}", "--out", tmp_path / "out.png"]
    return genseg("segment", tmp_path / "a.png", *words)


@pytest.mark.parametrize(("words", "told"), [
    (["--box", "1,2,30.5,40"], "box (1.0, 2.0, 30.5, 40.0) by himtok"),
    (["--points", "3,4; 20,30"], "points ((3.0, 4.0), (20.0, 30.0)) by himtok"),
])  # fmt: skip
def test_a_box_or_points_instead_of_words(genseg, models, tmp_path, words, told):
    result = shown(genseg, models, tmp_path, *words)
    assert result.code == 0, result.err
    assert told in result.out and "of the image in 32 tokens" in result.out
    assert Image.open(tmp_path / "out.png").size == (70, 50)


def test_the_box_of_a_mask(genseg, models, tmp_path):
    mask = np.zeros((50, 70), np.uint8)
    mask[10:20, 30:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    result = shown(genseg, models, tmp_path, "--mask", tmp_path / "mask.png")
    assert result.code == 0, result.err
    assert "no box in the answer" in result.out and "mask.png by himtok" in result.out
    Image.fromarray(mask[:30]).save(tmp_path / "mask.png")
    assert "mask of the request is 70x30" in complaint(shown(genseg, models, tmp_path, "--mask", tmp_path / "mask.png"))


def test_a_number_of_tokens_and_a_sam(ask, random_sam, tmp_path):
    noise().save(tmp_path / "a.png")
    random_sam().save_pretrained(tmp_path / "sam")
    lines = ask(tmp_path / "a.png", "--tokens", "7", "--refine", tmp_path / "sam").out.splitlines()
    assert "in 7 tokens" in lines[1]
    assert "refine" in next(line for line in lines if line.startswith("time: "))


@pytest.mark.parametrize(("words", "method", "sentence"), [
    (["--box", "1,2,3"], "himtok", "--box is '1,2,3'; write X1,Y1,X2,Y2"),
    (["--points", ";"], "himtok", "--points is ';'; write X,Y;X,Y"),
    (["--points", "a,b"], "himtok", "--points: a number is 'a'"),
    (["--box", "1,2,3,4", "--points", "1,2"], "himtok", "give one of an expression, --box, --points and --mask"),
    (["--box", "1,2,3,4"], "argenseg", "ARGenSeg is asked with words alone"),
    (["the red car", "--refine", "sam"], "argenseg", "argenseg: masks cannot be refined"),
    (["the red car", "--tokens", "33"], "himtok", "has 1 to 32 tokens, not 33"),
    (["the red car", "--tokens", "33"], "argenseg", "tokens, not 33; choose one"),
    (["the red car", "--refine", "nothing"], "himtok", "nothing: no SAM is there"),
])  # fmt: skip
def test_what_cannot_be_asked_is_one_sentence(genseg, models, tmp_path, words, method, sentence):
    assert sentence in complaint(shown(genseg, models, tmp_path, *words, method=method))
    assert not (tmp_path / "out.png").exists()


# ---- lists ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def both(models, monkeypatch):
    """The nano profile's methods with small models in place of the shipped ones."""
    monkeypatch.setattr(segment, "find_model", lambda profile, name: models[name])


def test_a_list_becomes_a_grid_with_every_method(both, genseg, tmp_path):
    noise().save(tmp_path / "a.png")
    words = f"{tmp_path}/a.png\tthe red\u2028car\r\n\n{tmp_path}/a.png\tThe other one\n"
    (tmp_path / "list.tsv").write_bytes(words.encode("utf-8-sig"))  # with a byte order mark, as some editors write
    result = genseg("segment", tmp_path / "list.tsv", "--out", tmp_path / "grid.png")
    assert result.code == 0
    assert "2 questions to himtok and argenseg" in result.out
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width == 3 * 232 + 8
        assert grid.height > 2 * 160


@pytest.mark.parametrize("content, words", [
    ("a.png the red car\n", "line 1: no tab"),
    ("a.png\t \n", "line 1: the expression is empty"),
    ("\n", "holds no questions"),
    ("nowhere.png\tthe red car\n", "nowhere.png: no such file"),
])  # fmt: skip
def test_a_wrong_list_is_one_sentence(both, genseg, tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    noise().save("a.png")
    (tmp_path / "list.tsv").write_text(content)
    result = genseg("segment", "list.tsv")
    assert result.code == 2
    assert words in result.err
    assert result.err.count("\n") == 1


def test_an_image_without_a_sentence_says_so(genseg, tmp_path):
    noise().save(tmp_path / "a.png")
    result = genseg("segment", tmp_path / "a.png")
    assert result.code == 2
    assert "no expression; say what to segment" in result.err


def test_nothing_that_genseg_did_not_write_is_replaced(ask, tmp_path):
    noise().save(tmp_path / "a.png")
    noise().save(tmp_path / "mine.png")
    (tmp_path / "link.png").symlink_to("mine.png")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "is the image that is asked about" in complaint(ask(tmp_path / "a.png", out=tmp_path / "a.png"))
    for name in ("mine.png", "link.png"):
        assert "was not written by genseg" in complaint(ask(tmp_path / "a.png", out=tmp_path / name))
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("b.png", "b.jpg", "b.webp"):
        assert [ask(tmp_path / "a.png", out=tmp_path / name).code for _ in range(2)] == [0, 0]
    assert "is the image that is asked about" in complaint(ask(tmp_path / "b.png", out=tmp_path / "b.png"))


def test_an_image_of_too_many_pixels_is_refused_before_it_is_read(ask, tmp_path):
    Image.new("1", (10_000, 10_000)).save(tmp_path / "a.png")
    assert "10000 x 10000 pixels, more than the 50 megapixels" in complaint(ask(tmp_path / "a.png"))


def test_formats_that_start_other_programs_are_not_opened(ask, tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    assert "not a readable image" in complaint(ask(tmp_path / "a.png"))
