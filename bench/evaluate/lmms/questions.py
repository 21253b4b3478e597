"""lmms-eval's requests as questions to a model: one image, one text, greedy decoding. Imports nothing of lmms-eval."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from methods.base import Request, RequestOptions, UserError
from methods.files import number, quoted

PLACEHOLDER = "<image>"  # for an image in a task's text; a model's own chat format puts it where it belongs
MOST_TOKENS = 1024  # of an answer where a task sets no limit, as in lmms-eval's own models


@dataclass(frozen=True)
class Question:
    """One request. where: task, split and sample, for messages. stops: strings that end the answer. greedy: whether the
    task asks for no more than the likeliest tokens."""

    where: str
    image: Path | Image.Image
    text: str
    most_tokens: int = MOST_TOKENS
    stops: tuple[str, ...] = ()
    greedy: bool = True

    def request(self, tiles: int | None = None) -> Request:
        """tiles: that the image is cut into at most; None: as the checkpoint has it."""
        return Request(self.image, (), ("text",), options=RequestOptions(question=self.text, tiles=tiles))

    def answer(self, text: str) -> str:
        """The text up to the first of the strings that end it."""
        return text[: min((text.find(stop) for stop in self.stops if stop in text), default=len(text))]


def read_question(arguments: Sequence[Any], tasks: Mapping[str, Any]) -> Question:
    """A chat request's arguments (context, document -> messages, generation settings, number of the document, task,
    split) as a question. tasks: name of a task -> split -> its documents.

    Raises UserError, naming the sample, unless there is one message of the user's with one image and a text."""
    _, to_messages, settings, document, task, split = arguments
    where = f"{task} {split}, sample {document}"
    messages = list(to_messages(tasks[task][split][document]))
    if [message.get("role") for message in messages] != ["user"]:
        raise UserError(f"{where}: a conversation of {len(messages)} messages; give a task of single questions.")
    content = messages[0]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    texts = (part["text"].replace(PLACEHOLDER, "").strip() for part in parts if part["type"] == "text")
    text = "\n".join(filter(None, texts))  # of a text around images, tasks give the pieces without their spaces
    if not text:
        raise UserError(f"{where}: no question in words; give another task.")
    return Question(where, _only_image(parts, where), text, *_generation(settings or {}, where))


def _only_image(parts: Iterable[Mapping[str, Any]], where: str) -> Path | Image.Image:
    media = [part for part in parts if part["type"] != "text"]
    kinds = [str(part["type"]) for part in media]
    if kinds != ["image"]:
        told = f"{len(kinds)} images" if set(kinds) == {"image"} else " and ".join(sorted(set(kinds))) or "no image"
        raise UserError(f"{where}: holds {told}, but one image is read for each question; give another task.")
    image = media[0]["url"]
    return image if isinstance(image, Image.Image) else Path(str(image))


def _generation(settings: Mapping[str, Any], where: str) -> tuple[int, tuple[str, ...], bool]:
    """Limit, stop strings and whether greedy decoding is all that is asked for."""
    most = number(settings.get("max_new_tokens", MOST_TOKENS), f"{where}: max_new_tokens", 1, 10**6, whole=True)
    until = settings.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    if not all(isinstance(stop, str) for stop in stops):
        raise UserError(f"{where}: until is {quoted(until)}; give strings.")
    sampled = settings.get("do_sample") and (settings.get("temperature") or 0) > 0
    return int(most), tuple(filter(None, stops)), not (sampled or (settings.get("num_beams") or 1) > 1)


def batches(questions: Iterable[Question], most: int) -> Iterator[list[Question]]:
    """Questions in order, up to `most` that have the same limit together."""
    batch: list[Question] = []
    for question in questions:
        if batch and (len(batch) == most or question.most_tokens != batch[0].most_tokens):
            yield batch
            batch = []
        batch.append(question)
    if batch:
        yield batch
