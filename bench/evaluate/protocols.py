"""Which protocol asks what of which method: the bundled ones ask all alike, "official" is each method's own."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from methods.base import UserError
from methods.protocols import TaskProtocol, load_protocols
from methods.registry import METHODS, method_spec

OURS = Path(__file__).with_name("protocols.yaml")


@cache
def _tables(method: str) -> dict[str, dict[str, TaskProtocol]]:
    own = method_spec(method).protocols if method in METHODS else None
    return load_protocols(OURS) | (load_protocols(own) if own else {})


def asks(name: str, task: str, method: str, scored: tuple[str, ...] = ()) -> bool:
    """Whether a method, or a baseline, is asked a task under a protocol. scored: what the benchmark scores, of which a
    method has to offer something. Where a prompt points, those are asked that take it."""
    rule = _tables(method).get(name, {}).get(task)
    if rule is not None and rule.prompt and not (method in METHODS and rule.prompt in method_spec(method).given):
        return False
    return rule is not None and (not scored or bool(rule.wanted(scored, method_spec(method).wants)))


def wanted_of(rule: TaskProtocol, scored: tuple[str, ...], method: str) -> tuple[str, ...]:
    """What a method is asked for under a protocol's rule, where `scored` is what the benchmark scores. Raises UserError
    if it offers nothing of it."""
    offered = method_spec(method).wants
    found = rule.wanted(scored, offered)
    if not found:
        asked = " and ".join(rule.want or scored)
        raise UserError(f"{method} answers with {' or '.join(offered)}, but {asked} is asked for; leave it out.")
    return found


def protocol_of(name: str, task: str, method: str) -> TaskProtocol:
    """How a method is asked a task under a protocol. A method that is none of the registry (a baseline) is asked as
    all are. Raises UserError for an unknown protocol, or for a task that it does not have."""
    tables = _tables(method)
    if name not in tables:
        known = ", ".join(tables)
        raise UserError(f"There is no protocol {name!r} for {method}; choose one of {known}.")
    if task not in tables[name]:
        able = ", ".join(other for other in tables if task in tables[other]) or "none"
        raise UserError(f"Protocol {name} of {method} has no task {task!r}; protocols that have: {able}.")
    rule = tables[name][task]
    if rule.prompt and method in METHODS and rule.prompt not in method_spec(method).given:
        what = {"box": "a box", "points": "points", "mask": "a mask"}[rule.prompt]
        raise UserError(f"Protocol {name}: {method} takes no {what[2:] if what[1] == ' ' else what} in place of words.")
    return rule
