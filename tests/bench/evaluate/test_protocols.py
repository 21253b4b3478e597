"""Protocols as data: what each asks, in whose words."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data.cards import open_dataset
from bench.evaluate.plan import Question, plan
from bench.evaluate.protocols import protocol_of, wanted_of
from bench.evaluate.runner import requests_of
from methods.base import USUAL_OPTIONS, Decoding, Example, UserError
from methods.protocols import TaskProtocol, load_protocols
from methods.registry import METHODS

SENTENCES = ("  the one you'd pick first", "left {guy}")


@pytest.mark.parametrize(
    ("method", "task", "sentences", "facts", "question"),
    [
        ("himtok", "segment", SENTENCES, {},
         "Segment <ref>Meet all the descriptions: 1.   the one you'd pick first. 2. left {guy}. </ref>."),
        ("himtok", "ground", SENTENCES[1:], {},
         "First create the segmentation mask for <ref>Meet all the descriptions: 1. left {guy}. 2. left {guy}. </ref>, "
         "then identify its bounding box."),
        ("himtok", "reason", ("Where?",), {"kind": "sentence"}, "Where?\nWhat is the object and mask in the image?"),
        ("himtok", "reason", ("a dog",), {"kind": "phrase"},
         "What is a dog?\nWhat is the object and mask in the image?"),
        ("himtok", "perceive", ("Which?\nA. a",), {}, "Which?\nA. a"),
        ("argenseg", "segment", SENTENCES, {},
         " Given the following instructions:    the one you'd pick first. left {guy}.; please perform referring "
         "segmentation on this image."),
        ("argenseg", "ground", SENTENCES[:1], {},
         "Please provide the bounding box coordinate of the region this sentence describes: "
         "<ref>  the one you'd pick first</ref>"),
    ],
)  # fmt: skip
def test_official_questions_are_the_releases(method, task, sentences, facts, question):
    assert protocol_of("official", task, method).words(sentences, facts) == question


@pytest.mark.parametrize("name", ["shared", "per_expression", "per_object_joined"])
@pytest.mark.parametrize("task", ["segment", "ground", "reason", "semantic"])
def test_bundled_protocols_ask_all_methods_alike(name, task):
    first, second = (protocol_of(name, task, method) for method in ("himtok", "argenseg"))
    assert first == second
    assert (first.question, first.image, first.box, first.constrained) == ("", "upright", "strict", True)


def test_an_unknown_protocol_or_task_is_told():
    with pytest.raises(UserError, match="no protocol 'mine' for himtok.*official"):
        protocol_of("mine", "segment", "himtok")
    with pytest.raises(UserError, match="official of argenseg has no task 'perceive'"):
        protocol_of("official", "perceive", "argenseg")
    with pytest.raises(UserError, match="no protocol 'official' for boxes"):
        protocol_of("official", "segment", "boxes")


def test_a_protocol_that_says_nothing_leaves_all_to_the_method():
    request = TaskProtocol().request("image", ("it",), ("mask", "box"))
    assert (request.options, request.want, request.joined) == (USUAL_OPTIONS, ("mask", "box"), True)
    assert TaskProtocol().decoding(Decoding(rule="hard")) == Decoding(rule="hard")
    assert not TaskProtocol(sentences="each").request("image", ("it",), ("mask",)).joined


def test_a_protocol_with_a_rule_is_no_evaluation_by_another():
    official = protocol_of("official", "segment", "himtok")
    assert official.decoding(Decoding(rule="hard")) is None
    assert official.decoding(Decoding()) == Decoding(constrained=False, most_tokens=128)


def test_what_the_protocol_wants_counts_more_than_what_the_dataset_has():
    assert wanted_of(protocol_of("official", "segment", "himtok"), ("mask", "box"), "himtok") == ("mask",)
    assert wanted_of(TaskProtocol(), ("mask", "box"), "himtok") == ("mask", "box")


def test_a_method_is_asked_for_nothing_that_it_does_not_offer(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    monkeypatch.setitem(METHODS, "rectangles", "rectangles.spec:SPEC")
    assert wanted_of(TaskProtocol(), ("mask", "box"), "rectangles") == ("mask",)
    assert wanted_of(TaskProtocol(want=("box", "mask")), ("box",), "rectangles") == ("mask",)
    with pytest.raises(UserError, match="rectangles answers with mask, but box is asked for"):
        wanted_of(TaskProtocol(), ("box",), "rectangles")


def test_images_are_read_as_the_protocol_says_and_once(tmp_path):
    image = Image.new("RGBA", (8, 4), (9, 9, 9, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    example = Example(tmp_path / "a.png", ("it", "that"), np.zeros((4, 8), bool))
    questions = [Question(0, 0, ("it",)), Question(0, 1, ("that",))]
    files = [tmp_path / "a.png"] * 2
    stored = requests_of([example] * 2, files, questions, TaskProtocol(image="stored"), ("mask",))
    assert stored[0].image is stored[1].image
    assert (stored[0].image.size, stored[0].image.getpixel((0, 0)), stored[0].options.size) == (
        (8, 4),
        (9, 9, 9),
        (4, 8),
    )
    (upright,) = requests_of([example], files[:1], questions[:1], TaskProtocol(), ("mask",))
    assert (upright.image, upright.options) == (tmp_path / "a.png", USUAL_OPTIONS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: {segment: {sentences: some}}", "sentences is 'some'"),
        ("a: {segment: {size: 3}}", "unknown field 'size'"),
        ("a: {segment: {tiles: 0}}", "tiles"),
        ("a: {draw: {}}", "no such task"),
        ("a: 3", "not a file of protocols"),
        ("a: [", "not a file of protocols"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, words):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_protocols(path)
    assert str(path) in str(caught.value)


def test_a_mask_is_wanted_at_the_size_of_the_truth_whatever_the_file_has(tmp_path):
    Image.new("RGB", (16, 8)).save(tmp_path / "a.png")
    resized = Example(Image.new("RGB", (8, 4)), ("it",), np.zeros((4, 8), bool))
    rule = TaskProtocol(image="stored")
    (request,) = requests_of([resized], [tmp_path / "a.png"], [Question(0, -1, ("it",))], rule, ("mask",))
    assert (request.image.size, request.options.size) == ((16, 8), (4, 8))
    (alone,) = requests_of([resized], [None], [Question(0, -1, ("it",))], rule, ("mask",))
    assert (alone.image, alone.options.size) == (resized.image, None)


@pytest.mark.parametrize("sentence", [True, False])
def test_reasonsegs_own_files_say_how_they_are_asked(tmp_path, sentence):
    (tmp_path / "val").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "val" / "a.jpg")
    shapes = [{"label": "target", "points": [[1, 1], [4, 1], [4, 4]]}]
    content = {"text": ["a dog", "what barks"], "is_sentence": sentence, "shapes": shapes}
    (tmp_path / "val" / "a.json").write_text(json.dumps(content))
    dataset = open_dataset("reasonseg", tmp_path, "val")
    rule = protocol_of("official", dataset.task, "himtok")
    (question,) = plan(dataset, rule.sentences)
    words = rule.words(question.expressions, dataset[0].facts)
    assert words.splitlines()[0] == ("a dog" if sentence else "What is a dog?")
