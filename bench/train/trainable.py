"""What of a method is trained in a stage, under the name by which scripts know it."""

from bench.train.freezing import enter

__all__ = ["enter"]
