"""`genseg report`: tables, figures and the page of a profile."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.cli.words import Commands, add_command, announce, profile_of


def add_to(commands: Commands) -> None:
    command = add_command(commands, "report", "tables and figures from the records that exist", run)
    command.add_argument("--strips", action="store_true", help="also draw masks after the first tokens and scales")
    command.add_argument("--verify", action="store_true", help="write nothing; fail if a file differs from them")


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.report.run import verify_report, write_report

    profile = profile_of(words)
    announce("report", profile)
    if options.verify:
        print(verify_report(profile))
        return
    write_report(profile, options.strips)
