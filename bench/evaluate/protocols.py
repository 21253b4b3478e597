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


def asks(name: str, task: str, method: str) -> bool:
    """Whether a method, or a baseline, is asked a task under a protocol."""
    return task in _tables(method).get(name, {})


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
    return tables[name][task]
