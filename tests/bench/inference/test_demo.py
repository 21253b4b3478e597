"""`genseg demo`: what the page asks and shows; gradio itself is stood in for."""

import contextlib
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from bench.config import load_profile
from bench.inference import demo
from methods.base import UserError


@pytest.fixture
def models(build, writing):
    return {"himtok": writing(build("himtok")), "argenseg": writing(build("argenseg", mask_tokenizer_config="short"))}


class Gradio:
    """Notes the components that are made and the functions that their events call."""

    class Error(Exception):
        def __init__(self, text, print_exception=True):
            super().__init__(text)

    def __init__(self):
        self.events, self.shown = [], []

    def __getattr__(self, kind):
        if kind in ("Blocks", "Row", "Column"):
            return lambda **settings: contextlib.nullcontext()
        if kind == "Examples":
            return lambda rows, inputs: self.shown.extend(rows)
        note = lambda *wiring: self.events.append(wiring)  # noqa: E731
        return lambda *words, **settings: SimpleNamespace(kind=kind, click=note, submit=note, **settings)


def test_each_model_answers_with_an_overlay_and_a_line(models, squares):
    image = squares(1)[0].image
    shown = demo.ask(models, image.convert("RGBA"), "the Red square")
    assert [type(item) for item in shown] == [Image.Image, str] * 2
    assert all(item.size == image.size for item in shown[::2])
    assert "in 32 tokens" in shown[1] and "in 30 tokens" in shown[3] and all("time: " in item for item in shown[1::2])


def test_the_page_asks_on_click_and_on_enter_and_tells_what_is_missing(models, squares):
    gradio = Gradio()
    demo.build(gradio, models, [("a.png", "the cat")], load_profile("nano"))
    assert gradio.shown == [["a.png", "the cat"]]
    (answer, inputs, outputs), (same, _, _) = gradio.events
    assert answer is same
    assert [part.kind for part in inputs] == ["Image", "Textbox"]
    assert [part.kind for part in outputs] == ["Image", "Textbox"] * len(models)
    assert len(answer(squares(1)[0].image, "the red square")) == len(outputs)
    with pytest.raises(Gradio.Error, match="There is no image; upload one"):
        answer(None, "the red square")
    with pytest.raises(Gradio.Error, match="The expression is empty"):
        answer(squares(1)[0].image, " ")


def test_examples_are_the_first_question_of_an_image(squares):
    data = squares(3)
    assert demo.examples(data) == [(str(data[3 * i].image), data[3 * i].expressions[0]) for i in range(3)]


def test_without_gradio_the_extra_is_named(genseg, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = genseg("demo", "profile=nano")
    assert result.code == 2 and ".[demo]" in result.complaint


def test_a_port_in_use_is_named(small, squares, monkeypatch):
    class Page:
        def launch(self, **settings):
            assert settings["server_name"] == "127.0.0.1" and not settings["share"]
            raise OSError("address in use")

    monkeypatch.setitem(sys.modules, "gradio", Gradio())
    monkeypatch.setattr(demo, "build", lambda *parts: Page())
    monkeypatch.setattr(demo, "prepare_data", lambda *_, **__: None)
    monkeypatch.setattr(demo, "open_split", lambda *_: squares(4))
    with pytest.raises(UserError, match="Port 7000 cannot be used"):
        demo.serve(small, 7000)
