"""A profile: one YAML file that says everything about a run, checked against the dataclasses below.

    genseg train profile=nano train.threads=1 seed=3

`profile` is a name in bench/profiles or a path; every other `key=value` overrides one value of the file. A key that
does not exist, or a value of the wrong type, is an error that names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from methods.base import UserError

PROFILES = Path(__file__).parent / "profiles"


@dataclass
class DataConfig:
    """Where the pictures come from. `root` is built on first use if the dataset is the embedded one."""

    dataset: str = "refmoji"
    root: str = MISSING
    level: str = "easy"
    seed: int = 0
    train_scenes: int = 0  # 0: no training split
    workers: int = 1  # processes that draw scenes


@dataclass
class StageConfig:
    """One training run. `tasks` are weights per task, `parts` what the method's `build` understands; a value of
    `parts` that reads `stage:NAME` stands for the model that stage NAME saved."""

    method: str = MISSING
    stage: str = MISSING
    parts: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, float] = field(default_factory=dict)
    steps: int = MISSING
    images: int = 8  # pictures per step
    per_image: int = 2  # samples per picture
    lr: float = 1e-3
    warmup: int = 50  # steps
    decay: float = 0.2  # last share of the steps over which the rate falls linearly to `floor` times itself
    floor: float = 0.03
    weight_decay: float = 0.05
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    clip: float = 1.0
    weights: dict[str, float] = field(default_factory=dict)  # of named losses, 1 where not given
    seed: int = 0
    validate_every: int = 0  # steps; 0: only at the end


@dataclass
class TrainConfig:
    """Settings that all stages share."""

    threads: int = 2
    precision: str = "auto"  # auto, float32 or bfloat16
    log_every: int = 20  # steps
    save_minutes: float = 3.0
    validate_samples: int = 64


@dataclass
class EvaluateConfig:
    splits: list[str] = field(default_factory=lambda: ["val"])
    protocols: list[str] = field(default_factory=lambda: ["per_expression"])
    limit: int = 0  # expressions per split, 0 for all
    batch: int = 16
    threads: int = 2
    precision: str = "float32"
    seed: int = 0  # of the bootstrap and of the random baseline


@dataclass
class LatencyConfig:
    warmup: int = 10
    requests: int = 200
    threads: int = 2
    precision: str = "float32"


@dataclass
class Profile:
    name: str = MISSING
    description: str = ""
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    stages: dict[str, StageConfig] = field(default_factory=dict)
    # method -> the stage whose model stands in the tables
    models: dict[str, str] = field(default_factory=dict)
    ship: bool = False  # models are read from results/<name>/checkpoints if they are there, and not retrained
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    runs: str = "runs/${name}"
    results: str = "results/${name}"

    @property
    def runs_dir(self) -> Path:
        return Path(self.runs)

    @property
    def results_dir(self) -> Path:
        return Path(self.results)


def load_profile(source: str | Path, overrides: Sequence[str] = ()) -> Profile:
    """Read a profile by name or path and apply `key=value` overrides.

    Raises UserError naming the file and the key for anything unknown, missing or of the wrong type.
    """
    path = Path(source) if str(source).endswith((".yaml", ".yml")) else PROFILES / f"{source}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))
        raise UserError(f"There is no profile {str(source)!r}; choose one of {known}, or give a YAML file's path.")
    try:
        config = OmegaConf.merge(OmegaConf.structured(Profile), OmegaConf.load(path))
        config = OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides)))
        profile = OmegaConf.to_object(config)
    except (OmegaConfBaseException, YAMLError) as error:
        reason = str(error).splitlines()[0]
        key = getattr(error, "full_key", None)
        where = f" (key {key})" if key and key not in reason else ""
        raise UserError(f"{path}: {reason}{where}; `bench/config.py` lists the keys.") from None
    _check(profile, path)
    return profile


def _check(profile: Profile, path: Path) -> None:
    for name, stage in profile.stages.items():
        for value in stage.parts.values():
            if isinstance(value, str) and value.startswith("stage:") and value[6:] not in profile.stages:
                raise UserError(f"{path}: stage {name} builds on {value[6:]!r}, which is not a stage of this profile.")
    for method, name in profile.models.items():
        if name not in profile.stages:
            raise UserError(f"{path}: the model of {method} comes from {name!r}, which is not a stage of this profile.")


def resolved(profile: Profile) -> str:
    """The whole profile as YAML, to stand beside what it produced."""
    return OmegaConf.to_yaml(OmegaConf.structured(profile), resolve=True)
