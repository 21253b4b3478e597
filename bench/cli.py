"""The command line: `genseg COMMAND ... key=value ...`.

Heavy modules are imported by the command that needs them, so that help and mistakes answer at once. Input that cannot
be used ends in one sentence on stderr and exit code 2; an interruption in exit code 130, ready to be resumed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from methods.base import UserError
from methods.files import check_text, number, printable

PROFILE_COMMANDS = {
    "reproduce": "evaluate and time the profile's models (trained first if none are shipped), then report",
    "study": "train everything anew, ship the weights, then reproduce",
    "train": "train the named stages (all if none is named) with what they build on",
    "plan": "what the named stages (all if none is named) will cost: gpus=8 memory=80 mfu=0.4",
    "eval": "predictions, scores and records of every method, mask tokenizer and baseline",
    "ablation": "the same models with fewer mask tokens, and what each token or scale is worth",
    "latency": "seconds per image, stage by stage",
    "report": "tables and figures from the records that exist",
}
MACHINE = ("gpus", "memory", "mfu", "text", "answer", "tiles")  # settings of `plan` besides the profile's


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
        print("genseg: interrupted; the same command goes on where it stopped.", file=sys.stderr)
        sys.exit(130)


class _Parser(argparse.ArgumentParser):
    """Says in one sentence, as every other mistake is answered, what it could not read."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{printable(message, 200)}; see `{self.prog} -h`.")


def _path(text: str) -> Path:
    """A path from the command line; ~ is the home, and a name may hold bytes that are no text."""
    if "\0" in text:
        raise UserError(f"{printable(text, 80)}: no path holds a zero character; leave it out.")
    return Path(text).expanduser() if text == "~" or text.startswith("~/") else Path(text)


def _number(low: float, high: float, whole: bool = True) -> Any:
    """A reader of an option's number, with bounds."""
    return lambda text: number(text, "The option's value", low, high, whole)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="genseg",
        description="HiMTok and ARGenSeg side by side. Settings follow the command as key=value, e.g. profile=nano "
        "evaluate.batch=8; `bench/config.py` lists them.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in PROFILE_COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name in ("train", "plan"):
            command.add_argument("stages", nargs="*", help="names of stages in the profile")
        command.set_defaults(run=_with_profile)
    data = commands.add_parser("data", help="list, build, check or show datasets")
    data.add_argument("action", choices=("list", "build", "check", "show"))
    data.set_defaults(run=_data)
    segment = commands.add_parser("segment", help="segment what a sentence describes in your own image")
    segment.add_argument("image", type=_path, help="an image; or a text file of image<tab>expression, for a sheet")
    segment.add_argument("expression", nargs="?", help="what to segment; left out with a list")
    segment.add_argument("--method", default="himtok", help="a method of the profile (default: himtok; lists: all)")
    segment.add_argument("--out", type=_path, default=Path("overlay.png"))
    segment.add_argument("--checkpoint", type=_path, help="a model's folder instead of the profile's")
    segment.set_defaults(run=_segment)
    generate = commands.add_parser("generate", help="an image from a sentence")
    generate.add_argument("caption")
    generate.add_argument("--method", default="argenseg", help="a method whose tokens are those of an image")
    generate.add_argument("--out", type=_path, default=Path("image.png"))
    generate.add_argument("--checkpoint", type=_path, help="a model's folder instead of the profile's")
    scale = _number(0, 1000, whole=False)
    generate.add_argument("--guidance", type=scale, default=4.0, help="of classifier-free guidance (default: 4)")
    generate.add_argument("--seed", type=_number(0, 2**31 - 1), help="draw the tokens instead of taking the likeliest")
    generate.set_defaults(run=_generate)
    demo = commands.add_parser("demo", help="a page in the browser that asks every method about your images")
    demo.add_argument("--port", type=_number(1, 65535), default=7860)
    demo.set_defaults(run=_demo)
    convert = commands.add_parser("convert", help="public checkpoints into this project's layout, or back")
    convert.add_argument("source", type=_path)
    convert.add_argument("target", type=_path)
    convert.add_argument("--method", required=True, help="boxes (InternVL2.5 alone), himtok or argenseg")
    convert.set_defaults(run=_convert)
    score = commands.add_parser(
        "score", help="figures of a file of predictions: root= dataset= split= split_by= images= limit="
    )
    score.add_argument("predictions", type=_path)
    score.set_defaults(run=_score)
    compare = commands.add_parser("compare", help="paired differences of two files of predictions or scores")
    compare.add_argument("first", type=_path)
    compare.add_argument("second", type=_path)
    compare.set_defaults(run=_compare)
    parity = commands.add_parser("parity", help="compare this code with reference vectors in a folder")
    parity.add_argument("folder", type=_path)
    parity.set_defaults(run=_parity)
    commands.add_parser("doctor", help="what this machine has and what will run on it").set_defaults(run=_doctor)
    return parser


def split_profile(words: Sequence[str]) -> tuple[str, list[str]]:
    """(name or path of the profile, the other key=value words)."""
    values = settings_of(words)
    name = values.pop("profile", "nano")
    return name, [f"{key}={value}" for key, value in values.items()]


def settings_of(words: Sequence[str]) -> dict[str, str]:
    """key=value words by key; of a key that is given twice the last. Raises UserError for bytes that are no text."""
    return dict(check_text(word, printable(word, 80)).split("=", 1) for word in words)


def _with_profile(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench import pipeline
    from bench.ablation import ablation
    from bench.config import load_profile, resolved

    words = [w for w in [*getattr(options, "stages", []), *words] if "=" in w]
    machine = [w for w in words if options.command == "plan" and w.partition("=")[0] in MACHINE]
    name, overrides = split_profile([w for w in words if w not in machine])
    profile = load_profile(name, overrides)
    print(f"# genseg {options.command}\n{resolved(profile)}", file=sys.stderr)
    steps = {
        "reproduce": pipeline.reproduce,
        "study": pipeline.study,
        "eval": pipeline.evaluate,
        "ablation": ablation,
        "latency": pipeline.time_methods,
        "report": pipeline.write_report,
    }
    named = [w for w in getattr(options, "stages", []) if "=" not in w]
    if options.command == "train":
        pipeline.train(profile, named)
    elif options.command == "plan":
        from bench.train.plan import machine_of, print_plan

        print_plan(profile, named, machine_of(settings_of(machine)))
    else:
        steps[options.command](profile)


def _data(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench import datasets

    values = settings_of(words)
    root = _path(values.pop("root", "data/refmoji"))

    if options.action == "list":
        datasets.list_cards()
    elif options.action == "build":
        splits = values.pop("splits").split(",") if "splits" in values else None
        level, numbers = values.pop("level", "easy"), {k: whole_of(values, k, *d) for k, d in _BUILD_NUMBERS.items()}
        _none_left(values)
        datasets.build(level=level, root=root, splits=splits, **numbers)
    elif options.action == "check":
        name, where = _dataset_words(values)
        _none_left(values)
        datasets.check(root, name, **where)
    else:
        split, out = values.pop("split", "val"), _path(values.pop("out", "sheet.png"))
        count = whole_of(values, "count", 24, 1, 10_000)
        name, where = _dataset_words(values)
        _none_left(values)
        datasets.show(root, split, out, count, name, **where)


def _dataset_words(values: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """The name of a dataset, and where its images are and how it is divided."""
    where: dict[str, Any] = {"images": _path(values.pop("images"))} if values.get("images") else {}
    where |= {"split_by": values.pop("split_by")} if "split_by" in values else {}
    return values.pop("dataset", "refmoji"), where


_BUILD_NUMBERS = {"train_scenes": (0, 0, 10**8), "seed": (0, 0, 2**31 - 1), "workers": (1, 1, 1024)}


def whole_of(values: dict[str, str], key: str, default: int, low: int, high: int) -> int:
    """Take a whole number out of the settings. Raises UserError if it is none, or out of bounds."""
    return number(values.pop(key, default), key, low, high, whole=True)


def _none_left(values: dict[str, str]) -> None:
    if values:
        raise UserError(f"Unknown setting {printable(repr(next(iter(values))), 80)} of this command; see the README.")


def _segment(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.config import load_profile
    from bench.segment import segment_file, segment_list

    # a setting may stand in the expression's place; but "sign that says a=b" is none
    alone = options.expression is None or re.fullmatch(r"[\w.]+=\S*", options.expression) is not None
    if alone and options.image.suffix not in (".txt", ".tsv"):
        what = 'say what to segment, e.g. "the red car", or give a .tsv list of questions'
        raise UserError(f"{options.image}: no expression; {what}.")
    name, overrides = split_profile([*([options.expression] if alone and options.expression else []), *words])
    profile = load_profile(name, overrides)
    if alone:
        lines = segment_list(profile, options.image, options.out)
    else:
        chosen = (options.expression, options.method, options.out, options.checkpoint)
        lines = segment_file(profile, options.image, *chosen)
    for line in lines:
        print(printable(line))


def _generate(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.config import load_profile
    from bench.generate import generate_file

    name, overrides = split_profile(words)
    chosen = (options.method, options.out, options.checkpoint, options.guidance, options.seed)
    for line in generate_file(load_profile(name, overrides), options.caption, *chosen):
        print(printable(line))


def _demo(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.config import load_profile
    from bench.demo import serve

    name, overrides = split_profile(words)
    serve(load_profile(name, overrides), options.port)


def _convert(options: argparse.Namespace, words: Sequence[str]) -> None:
    from methods.registry import METHODS, method_spec, resolve

    _none_left(settings_of(words))
    convert = method_spec(options.method).convert
    if convert is None:
        able = ", ".join(name for name in METHODS if method_spec(name).convert)
        raise UserError(f"{options.method} has no official checkpoints; choose one of {able}.")
    print(printable(resolve(convert)(options.source, options.target)))


def _score(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.evaluate.commands import score_file

    score_file(options.predictions, _place(settings_of(words)))


def _compare(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.evaluate.commands import compare_files

    compare_files(options.first, options.second, _place(settings_of(words)))


def _place(values: dict[str, str]) -> Any:
    """Where the truth of a file of predictions is; a profile stands for the root of its evaluation data."""
    from bench.evaluate.commands import Place

    folders = {name: _path(values.pop(name)) for name in ("root", "images") if values.get(name)}
    names = {name: values.pop(name, None) for name in ("dataset", "split", "split_by", "profile")}
    place = Place(**folders, **names, limit=whole_of(values, "limit", 0, 0, 10**9))
    _none_left(values)
    return place


def _parity(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.parity import check

    _none_left(settings_of(words))
    if not check(options.folder):
        sys.exit(1)


def _doctor(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.doctor import examine

    _none_left(settings_of(words))
    examine()
