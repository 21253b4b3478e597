"""The command line: `genseg COMMAND ... key=value ...`, a file for each command.

A file has `add_to`, which declares its command, and what the command does; heavy modules are imported when it runs, so
that help and mistakes answer at once.
"""

from bench.cli.main import main

__all__ = ["main"]
