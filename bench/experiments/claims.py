"""What the papers claim: data (claims.yaml), read into the dataclasses below."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bench.evaluate.baselines import BASELINES
from bench.evaluate.metrics.registry import REGISTRY
from bench.records import Record, Settings, canonical, describe
from bench.schema import MISSING, check, construct, merged, read_yaml
from methods.base import UserError
from methods.files import setting
from methods.registry import METHODS

FILE = Path(__file__).with_name("claims.yaml")


@dataclass
class Side:
    """One side of a comparison, by fields of records; mask tokens 0: as many as the method writes."""

    variant: dict[str, Any] = field(default_factory=dict)
    tokens: int = setting(0, 0)

    @property
    def fields(self) -> dict[str, Any]:
        """As a difference's record has it."""
        variant: dict[str, Any] = {"variant": self.variant} if self.variant else {}
        return variant | ({"tokens": self.tokens} if self.tokens else {})

    @property
    def label(self) -> str:
        return describe(self.variant, self.tokens or None)

    @property
    def key(self) -> tuple[str, int]:
        return key_of(self.variant, self.tokens)


def key_of(variant: Settings, tokens: int | None) -> tuple[str, int]:
    """What tells a side from others of its method."""
    return canonical(variant), tokens or 0


@dataclass
class Printed:
    """Where the published figures stand: the table, and what the names of its rows contain."""

    table: str = ""
    more: str = ""
    less: str = ""


@dataclass
class ScoreClaim:
    """`more` has a higher (or lower) value of a metric than `less`, by more than a margin.

    It is decided only where both sides lie at least `lead` above the best of the trivial baselines.
    """

    text: str = MISSING
    method: str = setting(MISSING, choices=tuple(METHODS))
    metric: str = MISSING
    more: Side = field(default_factory=Side)
    less: Side = field(default_factory=Side)
    paper: Printed = field(default_factory=Printed)
    group: dict[str, Any] = field(default_factory=dict)  # attributes of the samples that are compared; none: all
    direction: str = setting("higher", choices=("higher", "lower"))
    margin: float = setting(0.0, 0, 1)
    baselines: list[str] = setting(choices=tuple(BASELINES), factory=lambda: list(BASELINES))
    lead: float = setting(0.05, 0, 1)

    @property
    def title(self) -> str:
        """The claim, with the samples that it is tested on."""
        return f"{self.text} ({describe(self.group)})" if self.group else self.text

    @property
    def pair(self) -> str:
        return f"{self.more.label} against {self.less.label}"

    def is_of(self, record: Record) -> bool:
        """Whether a record of kind `difference` is this claim's."""
        side = record.method, record.metric, key_of(record.variant, record.tokens)
        against = key_of(record.against.get("variant", {}), record.against.get("tokens"))
        own = side == (self.method, self.metric, self.more.key) and against == self.less.key
        return own and "method" not in record.against and canonical(record.group) == canonical(self.group)


@dataclass
class SpeedClaim:
    """Method `slow` takes more than `times` the time of method `fast`; `short`: the claim in the words of a column."""

    text: str = MISSING
    short: str = MISSING
    fast: str = setting(MISSING, choices=tuple(METHODS))
    slow: str = setting(MISSING, choices=tuple(METHODS))
    times: float = setting(MISSING, 0)


@dataclass
class Claims:
    scores: list[ScoreClaim] = field(default_factory=list)
    speeds: list[SpeedClaim] = field(default_factory=list)


@cache
def load_claims(path: Path = FILE) -> Claims:
    """All claims. Raises UserError, naming the file, for an unknown key, method, metric or baseline."""
    claims = construct(Claims, merged([read_yaml(path, Claims, "bench/experiments/claims.py lists them")]), str(path))
    check(claims, str(path))
    for claim in claims.scores:
        if claim.metric not in REGISTRY:
            raise UserError(
                f"{path}: there is no metric {claim.metric!r} ({claim.text}); choose {', '.join(REGISTRY)}."
            )
    return claims
