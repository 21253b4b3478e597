"""Which of the timed subjects a figure shows, and what they are called in it."""

from __future__ import annotations

from collections.abc import Sequence

from bench.records import LATENCY, Record
from bench.report.names import method_name
from bench.report.speed import Metrics, by_setting, first_of
from bench.report.tables import STAGES

MODEL = ("model", "backbone", "tiles")  # settings that say which model was timed, not what was changed


def first_setting(records: Sequence[Record], metrics: Sequence[str]) -> dict[str, Metrics]:
    """Name -> the records of each method as it is with the fast backend: on the first device and dataset on which its
    stages have all of these metrics, with the first backbone and number of tiles, writing the most mask tokens."""
    for found in by_setting(records, LATENCY).values():
        plain = [mine for mine in found if _is_plain(first_of(mine)) and all(stages_of(mine, each) for each in metrics)]
        if plain:
            model = min(_model(mine) for mine in plain)
            same = sorted(
                (mine for mine in plain if _model(mine) == model), key=lambda mine: first_of(mine).tokens or 0
            )
            named = {_name(first_of(mine)): mine for mine in same}
            return {name: named[name] for name in sorted(named)}
    return {}


def _is_plain(record: Record) -> bool:
    return record.variant.keys() <= set(MODEL) and record.backend in ("", "fast")


def _model(mine: Metrics) -> tuple[str, int]:
    variant = first_of(mine).variant
    return str(variant.get("backbone", "")), int(variant.get("tiles", 0))


def _name(record: Record) -> str:
    return str(record.variant.get("model") or method_name(record.method))


def stages_of(mine: Metrics, metric: str = "median_ms") -> dict[str, float]:
    """Stage -> its figure in ms."""
    return {stage: mine[stage, metric].value for stage in STAGES if (stage, metric) in mine}
