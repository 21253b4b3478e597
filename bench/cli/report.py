"""`genseg report`: tables, figures and the page of a profile."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.cli.words import Commands, add_command, announce, profile_of


def add_to(commands: Commands) -> None:
    add_command(commands, "report", "tables and figures from the records that exist", run)


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.report.run import write_report

    profile = profile_of(words)
    announce("report", profile)
    write_report(profile)
