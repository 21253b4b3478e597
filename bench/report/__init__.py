"""Views of the records: tables, figures and sheets. Nothing here imports torch or holds a number typed by hand."""

from bench.report.build import build

__all__ = ["build"]
