"""YAML and `key=value` words read by a dataclass: text stays the text that was written, unknown keys are named with the
nearest known one, and what a value may be stands beside its field.

YAML makes 20261130 of 2026_11_30, 1000.0 of 1e3, 750 of 12:30 and false of no. A field of type `str` therefore takes
the characters of the file; the other types convert them. Where a field may be anything (`Any`), plain numbers, true,
false and null are what JSON takes for them, and everything else is text.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from methods.base import UserError
from methods.files import check_text, number, printable, quoted, read_text

T = TypeVar("T")
MISSING: Any = "???"  # the default of a field that must be given
LARGEST = 2**31 - 1  # of whole numbers that have no bound of their own
TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d*)?([eE][-+]?\d+)?")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LISTS, MAPPINGS = (list, tuple, Sequence), (dict, Mapping)  # of annotations
NODES = {yaml.MappingNode: "keys with values", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}


# ---- reading ----------------------------------------------------------------------------------------------------


def read_yaml(path: Path | str, hint: Any, repair: str, extra: Iterable[str] = ()) -> Any:
    """The content of a YAML file as dicts, lists and values for a dataclass; nothing in the file is None.

    extra: keys at the top that the dataclass lacks. Raises UserError with file and line.
    """
    text = check_text(read_text(path, repair), str(path))
    try:
        node = yaml.compose(text, LOADER)
        return None if node is None else _typed(node, hint, "", str(path), frozenset(extra))
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{printable(path)}: {printable(error.problem)}{line}; {repair}.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{printable(path)}: not YAML ({printable(error, 120)}); {repair}.") from None
    except RecursionError:
        raise UserError(f"{printable(path)}: nested too deeply; {repair}.") from None


def read_word(word: str, hint: type, where: str) -> dict[str, Any]:
    """`a.b.c=value` as nested dicts for a dataclass. Raises UserError naming the word."""
    key, equals, text = check_text(word, printable(word, 80)).partition("=")
    if not equals:
        raise UserError(f"{printable(word, 80)!r} is no setting; write key=value.")
    names, place = key.split("."), list[str]()
    while names:
        if is_dataclass(hint):
            hint = _hint_of(hint, names[0], ".".join(place), where)
            place.append(names.pop(0))
        elif get_origin(hint) is dict and _is_simple(get_args(hint)[1]) and get_args(hint)[1] is not Any:
            place, names, hint = [*place, ".".join(names)], [], get_args(hint)[1]  # a name with dots in it
        elif get_origin(hint) is dict or hint is Any:
            hint = get_args(hint)[1] if hint is not Any else Any
            place.append(names.pop(0))
        else:
            raise UserError(f"{where}: {'.'.join(place)} holds no keys, so {key!r} cannot be set; see bench/config.py.")
    value = _value_of(text, hint, key, where)
    for name in reversed(place):
        value = {name: value}
    return value


def _value_of(text: str, hint: Any, key: str, where: str) -> Any:
    """The value of a word: YAML's brackets and braces for lists and mappings, and where anything is allowed; else the
    characters themselves."""
    if _is_simple(hint) and (hint is not Any or text[:1] not in ("[", "{", '"', "'")):
        return plain_value(text) if hint is Any else text
    try:
        node = yaml.compose(text, LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{where}: {key} is {quoted(text)}, which cannot be read ({printable(problem, 80)}).") from None
    return _typed(node or yaml.ScalarNode("", text, yaml.Mark("", 0, 0, 0, None, 0)), hint, key, where)


def _is_list(hint: Any) -> bool:
    return get_origin(hint) in LISTS


def _is_mapping(hint: Any) -> bool:
    return is_dataclass(hint) or get_origin(hint) in MAPPINGS


def _is_simple(hint: Any) -> bool:
    return not _is_list(hint) and not _is_mapping(hint)


def _typed(node: yaml.Node, hint: Any, key: str, where: str, extra: frozenset[str] = frozenset()) -> Any:
    """A node of a YAML file as the value of a hint; numbers and truth values stay text unless everything is allowed."""
    place = _line_of(node, where)
    if isinstance(node, yaml.MappingNode) and (_is_mapping(hint) or hint is Any):
        found = {}
        for name, value in _pairs(node, place).items():
            if isinstance(hint, type) and is_dataclass(hint) and name not in extra:
                inner = _hint_of(hint, name, key, _line_of(value, where))
            else:
                inner = get_args(hint)[1] if get_origin(hint) in MAPPINGS else Any
            found[name] = _typed(value, inner, f"{key}.{name}" if key else name, where)
        return found
    if isinstance(node, yaml.SequenceNode) and (_is_list(hint) or hint is Any):
        inner = Any if hint is Any else get_args(hint)[0]
        return [_typed(each, inner, f"{key}[{i}]", where) for i, each in enumerate(node.value)]
    if not isinstance(node, yaml.ScalarNode) or not _is_simple(hint):
        wanted = "a list, [a, b]" if _is_list(hint) else "keys with values" if _is_mapping(hint) else "one value"
        told = quoted(node.value) if isinstance(node, yaml.ScalarNode) else NODES[type(node)]
        raise UserError(f"{place}: {key or 'the file'} is {told}, but must be {wanted}.")
    if hint is Any and not node.style:  # not quoted
        return plain_value(node.value)
    return None if node.tag == "tag:yaml.org,2002:null" else node.value


def _line_of(node: yaml.Node, where: str) -> str:
    return f"{where}, line {node.start_mark.line + 1}" if where.endswith((".yaml", ".yml")) else where


def _pairs(node: yaml.MappingNode, place: str) -> dict[str, yaml.Node]:
    """Name -> node of a mapping, after those of the mappings that it merges (`<<: *name`)."""
    merged: dict[str, yaml.Node] = {}
    own: dict[str, yaml.Node] = {}
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise UserError(f"{place}: a key is {NODES[type(name)]}, but must be text.")
        if name.tag == "tag:yaml.org,2002:merge":
            for each in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(each, yaml.MappingNode):
                    raise UserError(f"{place}: << takes the keys of another mapping, but {quoted(each.value)} is none.")
                merged = _pairs(each, place) | merged
        elif name.value in own:
            raise UserError(f"{place}: the key {name.value!r} stands there twice; leave one of them.")
        else:
            own[name.value] = value
    return merged | own


def plain_value(text: str) -> Any:
    """What unquoted text stands for where anything is allowed: a JSON number, true, false, null, or the text itself."""
    if NUMBER.fullmatch(text):
        found = float(text) if set(text) & set(".eE") or len(text) > 18 else int(text)
        return found if math.isfinite(found) else text
    return json.loads(text) if text in ("true", "false", "null") else expanded(text)


def _hint_of(cls: type, name: str, key: str, where: str) -> Any:
    """The type of a dataclass's field. Raises UserError with the nearest name if it has none of that name."""
    hints = hints_of(cls)
    if name not in hints:
        raise unknown(f"key {quoted(name)}{f' in {key}' if key else ''}", name, hints, where)
    return hints[name]


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """Field -> type of a dataclass."""
    hints = get_type_hints(cls)
    return {each.name: hints[each.name] for each in fields(cls)}


def unknown(what: str, name: str, known: Iterable[str], where: str) -> UserError:
    """The sentence about a name that does not exist, with the nearest that does; never raised here."""
    known = sorted(map(str, known))
    near = difflib.get_close_matches(name, known, 1, 0.6)
    listed = f"known are {', '.join(known) or 'none'}."
    return UserError(f"{where}: unknown {what}; {f'did you mean {near[0]!r}?' if near else listed}")


# ---- making -----------------------------------------------------------------------------------------------------


def merged(layers: Iterable[Any]) -> dict[str, Any]:
    """Mappings over each other: what a later one says of a key counts, and mappings in them are merged likewise."""
    found: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(found.get(key), dict)
            found[key] = merged([found[key], value]) if both else value
    return found


def construct(cls: type[T], tree: Mapping[str, Any], where: str) -> T:
    """A dataclass from mappings, lists and text; `${a.b}` in a text stands for the value of that key.

    Raises UserError naming the first key that is missing, or whose value has another type.
    """
    made = _convert(tree, cls, "", where)
    try:
        plain = OmegaConf.to_container(OmegaConf.create(asdict(made)), resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        told = str(error).strip().split("\n")[0] or "a reference refers to itself"
        raise UserError(f"{where}: {printable(told, 300)}; correct the ${{...}}.") from None
    _adopt(made, plain, where)
    return made


def _convert(value: Any, hint: Any, key: str, where: str) -> Any:
    if value is None and hint is not Any:
        raise UserError(f"{where}: {key} has no value; give one, or leave the key out.")
    if is_dataclass(hint):
        return _convert_fields(value, hint, key, where)
    if get_origin(hint) is dict:
        inner = get_args(hint)[1]
        return {name: _convert(each, inner, f"{key}.{name}", where) for name, each in value.items()}
    if get_origin(hint) is list:
        return [_convert(each, get_args(hint)[0], key, where) for each in value]
    if hint is bool:
        if str(value).lower() not in TRUTH:
            raise UserError(f"{where}: {key} is {quoted(value)}, but must be true or false.")
        return TRUTH[str(value).lower()]
    return number(value, f"{where}: {key}", whole=hint is int) if hint in (int, float) else value


def _convert_fields(value: Mapping[str, Any], cls: Any, key: str, where: str) -> Any:
    given = {
        name: _convert(value[name], hint, f"{key}.{name}" if key else name, where)
        for name, hint in hints_of(cls).items()
        if name in value
    }
    made = cls(**given)
    for name in hints_of(cls):
        if isinstance(getattr(made, name), str) and getattr(made, name) == MISSING:
            raise UserError(f"{where}: {f'{key}.{name}' if key else name} is missing; give it a value.")
    return made


def _adopt(value: Any, plain: Any, where: str) -> Any:
    """Put the text of `plain`, which is `value` after interpolation, in place, and expand a leading ~ of paths."""
    if is_dataclass(value):
        for each in fields(value):
            found = _adopt(getattr(value, each.name), plain[each.name], where)
            setattr(value, each.name, expanded(found) if each.metadata.get("path") else found)
    elif isinstance(value, dict):
        value.update({key: _adopt(each, plain[key], where) for key, each in value.items()})
    elif isinstance(value, list):
        value[:] = [_adopt(*both, where) for both in zip(value, plain, strict=True)]
    elif isinstance(value, str):
        if isinstance(plain, dict | list) or (plain == MISSING and value != MISSING):
            raise UserError(f"{where}: {quoted(value)} names no value of the profile; correct it.")
        return str(plain)
    return value


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Quotes every text that would be read as something else."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if isinstance(plain_value(text), str) else "'"
    ),
)


def to_yaml(config: Mapping[str, Any]) -> str:
    """A dataclass's values as YAML, which reads back as the same."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


# ---- checking ---------------------------------------------------------------------------------------------------


def check(config: Any, where: str, key: str = "") -> None:
    """Every value of a dataclass, and of those in it, against what its field allows.

    Raises UserError naming the first that is not allowed.
    """
    for each in fields(config):
        name = f"{key}.{each.name}" if key else each.name
        for place, value in _leaves(getattr(config, each.name), name):
            if is_dataclass(value):
                check(value, where, place)
            else:
                _check_value(value, place, each.metadata, where)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """(key, value) of everything in lists and mappings; of a dataclass as a whole."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaves(each, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _leaves(each, f"{key}[{index}]" if isinstance(each, list | tuple | Mapping) else key)
    else:
        yield key, value


def _check_value(value: Any, key: str, allowed: Mapping[str, Any], where: str) -> None:
    if isinstance(value, str):
        check_text(value, f"{where}: {key}")
        if "\0" in value:
            raise UserError(f"{where}: {key} holds a zero character; leave it out.")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        whole = isinstance(value, int)
        low, high = (
            allowed.get("low", -LARGEST if whole else -math.inf),
            allowed.get("high", LARGEST if whole else math.inf),
        )
        number(value, f"{where}: {key}", low, high, whole)
    if "choices" in allowed and value not in allowed["choices"]:
        shown = ", ".join(map(str, allowed["choices"]))
        near = difflib.get_close_matches(str(value), map(str, allowed["choices"]), 1, 0.6)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise UserError(f"{where}: {key} is {quoted(value)}, but must be one of {shown}{hint}")


def expanded(text: str) -> str:
    """A path with a leading ~ as the user's home; other text as it is."""
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text
