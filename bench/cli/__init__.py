"""The command line: `genseg COMMAND ... key=value ...`, a file for each command.

A file has `add_to`, which declares its command, and what the command does; heavy modules are imported when it runs, so
that help and mistakes answer at once. Input that cannot be used ends in one sentence on stderr and exit code 2; an
interruption in exit code 130, ready to be resumed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from bench.cli import (
    ablation,
    convert,
    data,
    demo,
    doctor,
    evaluate,
    generate,
    gpu_check,
    import_lmms,
    latency,
    parity,
    plan,
    reconstruct,
    report,
    reproduce,
    score,
    segment,
    show,
    tokens,
    train,
)  # fmt: skip
from methods.base import UserError
from methods.files import printable

COMMANDS = (reproduce, train, plan, evaluate, ablation, latency, report, show, data, segment, generate, demo, convert,
            tokens, reconstruct, score, import_lmms, parity, doctor, gpu_check)  # as help lists them  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever downloaded behind the user's back
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files may hold bytes that are no text
            stream.reconfigure(errors="backslashreplace")
    try:
        _run(arguments)
    except SystemExit as end:
        _leave_at_once(end.code)
        raise
    _leave_at_once(0)


def _leave_at_once(code: Any) -> None:
    """End one of many processes without the interpreter's usual end: gloo's threads can still hold tensors, and freeing
    them while the interpreter closes aborts the process (pytorch issue 190489)."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def _run(arguments: Sequence[str] | None) -> None:
    try:
        options, extra = _parser().parse_known_args(arguments)
        unknown = [word for word in extra if word.startswith("-") or "=" not in word]
        if unknown:
            raise UserError(f"Unknown option {printable(repr(unknown[0]), 80)}; see `genseg {options.command} -h`.")
        options.run(options, extra)
    except UserError as error:
        print(f"genseg: {printable(error)}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # what read our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f"{printable(error.filename)}: " if error.filename else ""
        reason = error.strerror or printable(error, 120)
        print(f"genseg: {where}{reason}; check the path, its permissions and the room left.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("genseg: interrupted; the same command resumes.", file=sys.stderr)
        sys.exit(130)


class _Parser(argparse.ArgumentParser):
    """Says in one sentence, as every other mistake is answered, what it could not read."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{printable(message, 200)}; see `{self.prog} -h`.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="genseg",
        description="Methods that write segmentation masks, side by side. Settings follow the command as key=value, "
        "e.g. profile=nano evaluate.batch=8; `bench/config.py` lists them.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser
