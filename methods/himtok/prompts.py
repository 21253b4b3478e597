"""HiMTok's conversations: which families of questions there are, and how a sample or a request becomes words.

A task of training is the name of a family in templates.yaml, or "dialogue" (two turns on one object). Information
flows both ways: expression -> mask -> box, expression -> box -> mask, box or points -> mask, mask -> box, mask -> the
expression that fits it. A mask stands as `<mask>` in the text, or spelled out where it has a requested length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from methods.base import Example, Request, UserError
from methods.internvl import prompts as shared
from methods.internvl.chat import MASK, Turn

START, END = "<|mt_start|>", "<|mt_end|>"
PACKAGED = {"ours": "templates.yaml", "official": "official.yaml"}
SHORT = 3  # wordings of a request in the source "short", which has one of each answer
LENGTHS = (8, 16, 32)  # that training asks for in words, as far as the mask tokenizer has so many
POINTS = 3  # at most, on the object
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIALOGUES = (("segment", "then_box"), ("box", "then_segment"))

SPELLED = re.compile(r"<\|mt_start\|>(?:<\|mt_\d+\|>)*<\|mt_end\|>")  # a mask as text

# what a text may say in place of a slot: the expression twice, and the right expressions instead of their letters
INSTEAD = {"repeated": "phrase", "words": "letters"}

# family -> the slots that each request and each answer must have
SLOTS: dict[str, tuple[set[str], set[str]]] = {
    "segment": ({"phrase"}, {"mask"}),
    "segment_box": ({"phrase"}, {"mask", "box"}),
    "box_segment": ({"phrase"}, {"mask", "box"}),
    "box": ({"phrase"}, {"box"}),
    "box_to_mask": ({"box"}, {"mask"}),
    "points_to_mask": ({"points"}, {"mask"}),
    "mask_to_box": ({"mask"}, {"box"}),
    "segment_tokens": ({"phrase", "n"}, {"mask"}),
    "segment_tokens_box": ({"phrase", "n"}, {"mask", "box"}),
    "choose": ({"mask", "options"}, {"letters"}),
    "choose_several": ({"mask", "options"}, {"letters"}),
    "then_box": (set(), {"box"}),
    "then_segment": (set(), {"mask"}),
}
TASKS = (*(name for name in SLOTS if not name.startswith("then_")), "dialogue")


def code_token(index: int) -> str:
    return f"<|mt_{index}|>"


@dataclass(frozen=True)
class Family:
    requests: tuple[str, ...]
    answers: tuple[str, ...]


class PromptTemplate:
    """The wordings of every family. `source` is "ours", "short" (the first few of them, for models that see too few
    samples to learn what is said in ten ways), "official", the path of a YAML file, or such a file's content (which is
    what a checkpoint keeps, so that it does not depend on the file)."""

    def __init__(self, source: str | Path | Mapping[str, Any] = "ours"):
        own = _read(Path(__file__).with_name(PACKAGED["ours"]))
        if isinstance(source, Mapping):
            given, where = dict(source), "config.json"
        elif source == "short":
            given, where = {name: _shortened(family) for name, family in own.items()}, PACKAGED["ours"]
        else:
            path = Path(__file__).with_name(PACKAGED[str(source)]) if str(source) in PACKAGED else Path(source)
            given, where = _read(path), str(path)
        self.source = str(source) if str(source) in (*PACKAGED, "short") else given
        unknown = sorted(given.keys() - SLOTS.keys())
        if unknown:
            raise UserError(f"{where}: there is no family {unknown[0]!r}; choose of {', '.join(SLOTS)}.")
        self.families = {name: _family(name, (own | given)[name], where) for name in SLOTS}

    def request(self, family: str, number: int = 0, **slots: Any) -> str:
        return self.families[family].requests[number].format(**slots)

    def draw(self, family: str, slots: Mapping[str, Any], rng: np.random.Generator) -> tuple[str, str]:
        """A request and an answer. The first of each is taken half of the time, because evaluation asks with it."""
        texts = self.families[family]
        return _draw(texts.requests, rng).format(**slots), _draw(texts.answers, rng).format(**slots)


def _draw(texts: Sequence[str], rng: np.random.Generator) -> str:
    if len(texts) == 1 or rng.random() < 0.5:
        return texts[0]
    return texts[rng.integers(1, len(texts))]


def _shortened(family: Mapping[str, Any]) -> dict[str, Any]:
    return {"requests": family["requests"][:SHORT], "answers": family["answers"][:1]}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; give {', '.join(PACKAGED)}, short or the path of a YAML file."
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not valid YAML ({str(error).splitlines()[0]}); correct it.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no families; see methods/himtok/{PACKAGED['ours']} for the form.")
    return content


def _family(name: str, content: Any, where: str) -> Family:
    """One family, checked: each text has the slots that it needs and no other."""
    texts: dict[str, tuple[str, ...]] = {}
    needed = dict(zip(("requests", "answers"), SLOTS[name], strict=True))
    for key, slots in needed.items():
        lines = content.get(key) if isinstance(content, Mapping) else None
        if not isinstance(lines, list) or not lines or not all(isinstance(line, str) for line in lines):
            raise UserError(f"{where}: family {name!r} needs `{key}`, a list of texts.")
        for line in lines:
            found = {INSTEAD.get(slot, slot) for slot in re.findall(r"{(\w*)}", line)}
            if found != slots or line.count("{") != len(re.findall(r"{\w*}", line)):
                wanted = " ".join(sorted(f"{{{slot}}}" for slot in slots)) or "no slot"
                raise UserError(f"{where}: {name} {key}: {line!r} must hold {wanted} and nothing else in braces.")
        texts[key] = tuple(lines)
    return Family(**texts)


# ---- slots ----------------------------------------------------------------------------------------------------------


def phrases(expressions: Sequence[str], listed: bool = False) -> dict[str, str]:
    """{phrase} and {repeated}: the released grounding evaluation says a single sentence twice. listed: a single one is
    numbered too."""
    once = tuple(expressions)
    several = once if len(once) > 1 else once * 2
    return {"phrase": shared.join_expressions(once, listed), "repeated": shared.join_expressions(several)}


def spelled_out(ids: Sequence[int]) -> str:
    """A block of mask tokens as text; the tokenizer reads it back as those tokens."""
    return START + "".join(map(code_token, ids)) + END


def write_points(points: Sequence[tuple[float, float]], width: int, height: int, scale: int) -> str:
    """Pixels (x, y) -> "[[x, y], ...]", rounded to integers of 0..scale."""
    pairs = ((min(scale, max(0, round(scale * x / width))), min(scale, max(0, round(scale * y / height)))) for x, y in
             points)  # fmt: skip
    return "[" + ", ".join(f"[{x}, {y}]" for x, y in pairs) + "]"


def draw_points(mask: np.ndarray, rng: np.random.Generator) -> list[tuple[float, float]]:
    """One to POINTS pixels of a mask bool [H, W] -> (x, y) of their centres."""
    rows, columns = mask.nonzero()
    chosen = rng.integers(len(rows), size=rng.integers(1, POINTS + 1))
    return [(float(columns[i]) + 0.5, float(rows[i]) + 0.5) for i in chosen]


def write_options(options: Sequence[str], where: str) -> str:
    """Expressions -> "A. the red one B. ..."."""
    if not 2 <= len(options) <= len(LETTERS):
        raise UserError(f"{where}: {len(options)} expressions to choose from; give 2 to {len(LETTERS)}.")
    return " ".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


# ---- requests ----------------------------------------------------------------------------------------------------


def family_of(request: Request, budget_in_prompt: bool, later: bool = False) -> str:
    """The family that a request belongs to; `later` if it is not the first turn of a conversation.

    Raises UserError for what no family serves.
    """
    given = [name for name in ("mask", "box") if getattr(request, name) is not None] + ["points"] * bool(request.points)
    counted = budget_in_prompt and request.tokens is not None
    follows = later and not request.expressions  # it means what was spoken of
    families = {
        (("choice",), ("mask",)): "choose",
        (("choices",), ("mask",)): "choose_several",
        (("mask",), ()): "then_segment" if follows else "segment_tokens" if counted else "segment",
        (("mask", "box"), ()): "segment_tokens_box" if counted else "segment_box",
        (("box", "mask"), ()): "box_segment",
        (("box",), ()): "then_box" if follows else "box",
        (("mask",), ("box",)): "box_to_mask",
        (("mask",), ("points",)): "points_to_mask",
        (("box",), ("mask",)): "mask_to_box",
    }
    family = families.get((tuple(request.want), tuple(given)))
    if family is None:
        what = " and ".join(request.want) + (f" from a given {' and '.join(given)}" if given else "")
        raise UserError(f"HiMTok has no question for {what}; see methods/himtok/README.md for what it can be asked.")
    return family


# ---- training -------------------------------------------------------------------------------------------------------


def converse(
    example: Example, task: str, templates: PromptTemplate, size: tuple[int, int], scale: int, tokens: int,
    image: Callable[[str], str], rng: np.random.Generator,
) -> list[Turn]:  # fmt: skip
    """The turns of a task; size = (width, height) of the image, `tokens` those of the mask tokenizer, `image` puts the
    image's placeholder to the first request. Raises UserError if the example lacks what the task needs."""
    families = DIALOGUES[rng.integers(len(DIALOGUES))] if task == "dialogue" else (task,)
    slots = _slots(example, families, size, scale, tokens, rng)
    turns = []
    for number, family in enumerate(families):
        request, answer = templates.draw(family, slots, rng)
        turns += [Turn("user", request if number else image(request)), Turn("assistant", answer)]
    return turns


def _slots(example, families, size, scale, tokens, rng) -> dict[str, Any]:
    needed = set().union(*(slots for family in families for slots in SLOTS[family]))
    task, slots, where = families[0], {"mask": MASK}, f"{example.dataset} sample {example.ref_id}"
    for slot, value in (("box", example.box), ("letters", example.answer), ("mask", example.mask)):
        if slot in needed and value is None:
            what = "an answer text" if slot == "letters" else f"a {slot}"
            raise UserError(f"{where}: the task {task!r} needs {what}; use other data.")
    if "phrase" in needed:
        slots |= phrases(example.expressions)
    if "box" in needed:
        slots["box"] = shared.write_box(example.box, *size, scale)
    if "points" in needed:
        if not example.mask.any():
            raise UserError(f"{where}: an empty mask has no points; use other data.")
        slots["points"] = write_points(draw_points(example.mask, rng), *size, scale)
    if "n" in needed:
        lengths = [length for length in LENGTHS if length <= tokens] or [tokens]
        slots["n"] = lengths[rng.integers(len(lengths))]
        slots["mask"] = spelled_out(slots["n"] * [0])
    if "options" in needed:
        options = example.facts.get("options", ())
        slots |= {"options": write_options(options, where), "letters": example.answer}
        slots["words"] = ", ".join(o for o, letter in zip(options, LETTERS, strict=False) if letter in example.answer)
    return slots
