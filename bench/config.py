"""A profile: one YAML file that says everything about a run, checked against the dataclasses below.

    genseg train profile=nano train.threads=1 seed=3

`profile` is a name in bench/profiles or a path; every other `key=value` overrides one value of the file. A key that
does not exist, or a value of the wrong type, is an error that names it. A file may begin with `base: NAME`: what it
does not say is then taken from that profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from yaml import MarkedYAMLError

from methods.base import UserError

PROFILES = Path(__file__).parent / "profiles"


@dataclass
class SourceConfig:
    """A dataset of a mixture to train on; see bench/train/sources.py for what is taken where nothing is given."""

    dataset: str = ""  # a card of datasets/; the source's own name
    root: str = ""  # data.root
    images: str = ""  # data.images
    split: str = "train"
    styles: list[str] = field(default_factory=list)  # of expressions to keep; all
    repeat: float = 1.0  # how often an epoch holds each picture
    weight: float = 0.0  # share of the pictures instead, if all sources have one
    tasks: dict[str, float] = field(default_factory=dict)  # those of the stage that the dataset can serve


@dataclass
class DataConfig:
    """Where the pictures come from. `root` is built on first use if the dataset is the embedded one; a `mixture` (a
    name for each source) replaces it for training."""

    dataset: str = "refmoji"
    root: str = MISSING
    images: str = ""  # folder of the pictures, where it is not in the root
    level: str = "easy"
    seed: int = 0
    train_scenes: int = 0  # 0: no training split
    workers: int = 1  # processes that draw scenes
    allow_leak: bool = False  # train on pictures that an evaluation split of `dataset` holds too
    mixture: dict[str, SourceConfig] = field(default_factory=dict)


@dataclass
class StageConfig:
    """One training run. `tasks` are weights per task, `parts` what the method's `build` understands; a value of
    `parts` that reads `stage:NAME` stands for the model that stage NAME saved."""

    method: str = MISSING
    stage: str = MISSING
    parts: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, float] = field(default_factory=dict)
    mixture: dict[str, float] = field(default_factory=dict)  # source -> factor on it, 0: left out; none given: all
    steps: int = MISSING
    images: int = 8  # pictures per step
    per_image: int = 2  # samples per picture
    micro_images: int = 0  # pictures per forward pass on one device; 0: `images` divided by the number of processes
    pack: bool = False  # put the samples of a micro-batch into one row that no padding fills
    group_lengths: int = 1  # steps among which pictures with samples of like length share a micro-batch; 1: as drawn
    lr: float = 1e-3  # AdamW
    matrix_lr: float = 0.0  # Muon for the weights of linear layers (the head aside); 0: AdamW for them too
    warmup: int = 50  # steps
    schedule: str = "linear"  # how the rate falls: linear (over the last `decay`) or cosine (from the warm-up on)
    decay: float = 0.2  # last share of the steps over which the rate falls linearly to `floor` times itself
    floor: float = 0.03
    freeze: list[str] = field(default_factory=list)  # patterns of parameter names, on top of what the stage freezes
    lr_scale: dict[str, float] = field(default_factory=dict)  # pattern of parameter names -> factor on the rate
    lora: dict[str, Any] = field(default_factory=dict)  # settings of peft's LoraConfig; empty: train the weights
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
    validate_samples: int = 64  # 0: no validation
    zero: int = 0  # stage of DeepSpeed's ZeRO; 0: plain data parallelism without DeepSpeed
    offload: bool = False  # with zero: optimiser states (with zero 3 the weights too) in the CPU's memory
    checkpoint_activations: bool = False  # compute activations anew in the backward pass
    workers: int = 0  # processes that prepare samples, per process that trains
    broken_share: float = 0.01  # of the pictures that may be unusable before a run is stopped
    explode: float = 10.0  # stop if the loss exceeds this times its running mean (or 1); 0: never
    tensorboard: bool = False  # also write TensorBoard's events
    wandb: str = ""  # also log to this Weights & Biases project


@dataclass
class EvaluateConfig:
    splits: list[str] = field(default_factory=lambda: ["val"])
    protocols: list[str] = field(default_factory=lambda: ["per_expression"])
    limit: int = 0  # expressions per split, 0 for all
    prefixes: bool = True  # the codec's ceiling at every number of tokens, or at the full one alone
    batch: int = 16
    threads: int = 2
    precision: str = "float32"
    seed: int = 0  # of the bootstrap and of the random baseline


@dataclass
class UntrainedConfig:
    """A method that is timed with random weights on backbones of named sizes. `parts` are those of its `build`, without
    the backbone; `tokens` mask tokens to write (none: all); `tiles` and `sizes` where they are not the profile's."""

    method: str = MISSING
    parts: dict[str, Any] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    tiles: list[int] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)


@dataclass
class LatencyConfig:
    warmup: int = 10
    requests: int = 200
    threads: int = 2
    precision: str = "float32"
    paths: list[str] = field(default_factory=lambda: ["fast", "reference"])  # and graphs; see methods.base.Decoding
    sizes: list[str] = field(default_factory=list)  # backbones with random weights
    tiles: list[int] = field(default_factory=lambda: [1])  # of a picture, the thumbnail included
    untrained: dict[str, UntrainedConfig] = field(default_factory=dict)  # methods on them, by a name for the tables
    int8: bool = False  # time with 8-bit weights in the language model; for trained models, with what they change
    scaling: bool = False  # also time batches, several expressions about a picture, tiles and numbers of tokens
    price: float = 0.0  # of the machine per hour, for the cost of a million masks; 0: not told


@dataclass
class OrderConfig:
    """Another form of a method's model that must write the same tokens: `parts` of its `build`, beside `start`."""

    method: str = MISSING
    parts: dict[str, Any] = field(default_factory=dict)


@dataclass
class AblationConfig:
    """What `genseg ablation` asks; see bench/ablation.py."""

    limit: int = 300  # questions, 0 for all
    box_after: list[int] = field(default_factory=lambda: [0, 16, 32])  # mask tokens before the box
    tolerances: list[float] = field(default_factory=lambda: [0.3, 0.1, 0.05, 0.02])  # of the adaptive length
    settled_limit: int = 150  # objects for the adaptive length, which answers one by one
    variants: dict[str, str] = field(default_factory=dict)  # label -> stage with one thing changed
    perception: str = ""  # stage that was taught to choose an expression for a mask
    orders: dict[str, OrderConfig] = field(default_factory=dict)  # label -> the model in another order of writing
    order_limit: int = 8  # questions for it, which may take hundreds of steps each


@dataclass
class Profile:
    name: str = MISSING
    description: str = ""
    seed: int = 0  # added to every stage's: another number is another training
    size: str = ""  # of InternVL2.5 (1B, 2B, 4B, 8B ...), in recipes that name their weights by it
    weights: str = "weights"  # folder of downloaded checkpoints
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    stages: dict[str, StageConfig] = field(default_factory=dict)
    # method -> the stage whose model stands in the tables
    models: dict[str, str] = field(default_factory=dict)
    ship: bool = False  # models are read from results/<name>/checkpoints if they are there, and not retrained
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)
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
        config = OmegaConf.merge(OmegaConf.structured(Profile), *_layers(path), OmegaConf.from_dotlist(list(overrides)))
        profile = OmegaConf.to_object(config)
    except Exception as error:  # OmegaConf's own, YAML's, or one of Python's from inside them
        raise UserError(f"{path}: {_reason(error)}; `bench/config.py` lists the keys.") from None
    _check(profile, path)
    return profile


def _layers(path: Path, above: tuple[Path, ...] = ()) -> list[Any]:
    """A profile's file after those that it is based on, which are sought beside it and then among the shipped ones."""
    layer = OmegaConf.load(path)
    base = layer.pop("base", None) if OmegaConf.is_dict(layer) else None
    if base is None:
        return [layer]
    above = (*above, path.resolve())
    places = [folder.resolve() / f"{base}.yaml" for folder in (path.parent, PROFILES)]
    found = next((place for place in places if place.is_file() and place not in above), None)
    if found is None:
        raise UserError(f"there is no other profile {base!r} beside it or among the shipped ones to be its base")
    return [*_layers(found, above), layer]


def _reason(error: Exception) -> str:
    """One line on what is wrong in a profile, with its place."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    reason = (str(error) or repr(error)).splitlines()[0]
    key = getattr(error, "full_key", None)
    return f"{reason} (key {key})" if key and key not in reason else reason


def _check(profile: Profile, path: Path) -> None:
    if not profile.latency.paths or not set(profile.latency.paths) <= {"fast", "graphs", "reference"}:
        raise UserError(f"{path}: latency.paths is {profile.latency.paths}; choose of fast, graphs and reference.")
    for key in ("splits", "protocols"):
        values = getattr(profile.evaluate, key)
        if not values or len(set(values)) < len(values):
            raise UserError(f"{path}: evaluate.{key} is {values}; name at least one, and each once.")
    for key, tiles in _tiles(profile).items():
        if not set(tiles) <= {1, 5, 10}:  # squares of up to twelve tiles, as InternVL cuts them, and a thumbnail
            raise UserError(f"{path}: {key} is {tiles}; choose of 1, 5 (2 x 2 and a thumbnail) and 10 (3 x 3 and one).")
    for name, source in profile.data.mixture.items():
        if source.weight < 0 or (source.repeat <= 0 and not source.weight):
            raise UserError(
                f"{path}: data.mixture.{name} has no positive repeat or weight; correct it or leave it out."
            )
    for name in profile.stages:
        if name in ("", ".") or any(part in name for part in ("/", "\\", "..")):
            raise UserError(f"{path}: stage {name!r} gives its folder that name; choose one without /, \\ and dots.")
        _check_stage(profile, name, path)
    for method, name in profile.models.items():
        if name not in profile.stages:
            raise UserError(f"{path}: the model of {method} comes from {name!r}, which is not a stage of this profile.")
    if profile.train.zero not in range(4):
        raise UserError(f"{path}: train.zero is {profile.train.zero}; choose 0, 1, 2 or 3.")
    if profile.train.offload and not profile.train.zero:
        raise UserError(f"{path}: train.offload is DeepSpeed's; give train.zero=1, 2 or 3 with it.")
    for name in [*profile.ablation.variants.values(), *filter(None, [profile.ablation.perception])]:
        if name not in profile.stages:
            raise UserError(f"{path}: the ablation names {name!r}, which is not a stage of this profile.")
    for label, order in profile.ablation.orders.items():
        if order.method not in profile.models:
            raise UserError(f"{path}: ablation.orders.{label} is of {order.method!r}, which is not in models.")
    for key, (value, least) in _numbers(profile).items():
        if value < least:
            raise UserError(f"{path}: {key} is {value}, but must be at least {least}.")


def _check_stage(profile: Profile, name: str, path: Path, above: tuple[str, ...] = ()) -> None:
    if name in above:
        raise UserError(f"{path}: stage {name} builds on itself ({' -> '.join([*above, name])}); break the circle.")
    stage = profile.stages[name]
    if stage.schedule not in ("linear", "cosine"):
        raise UserError(f"{path}: stages.{name}.schedule is {stage.schedule!r}; choose linear or cosine.")
    if len(stage.betas) != 2:
        raise UserError(f"{path}: stages.{name}.betas has {len(stage.betas)} numbers, but must have 2.")
    if stage.pack and stage.group_lengths > 1:
        raise UserError(f"{path}: stages.{name} has pack and group_lengths, but a packed row has no padding; drop one.")
    for source, factor in stage.mixture.items():
        if source not in profile.data.mixture:
            known = ", ".join(profile.data.mixture) or "nothing"
            raise UserError(f"{path}: stages.{name}.mixture names {source!r}, but data.mixture holds {known}.")
        if factor < 0:
            raise UserError(f"{path}: stages.{name}.mixture.{source} is {factor}, but must not be below 0.")
    for value in stage.parts.values():
        if isinstance(value, str) and value.startswith("stage:"):
            if value[6:] not in profile.stages:
                raise UserError(f"{path}: stage {name} builds on {value[6:]!r}, which is not a stage of this profile.")
            _check_stage(profile, value[6:], path, (*above, name))


def _tiles(profile: Profile) -> dict[str, list[int]]:
    """Numbers of tiles by key."""
    untrained = profile.latency.untrained.items()
    return {"latency.tiles": profile.latency.tiles} | {f"latency.untrained.{k}.tiles": v.tiles for k, v in untrained}


def _numbers(profile: Profile) -> dict[str, tuple[float, int]]:
    """Numbers by key, each with the least that it may be."""
    data, train, evaluate, latency = profile.data, profile.train, profile.evaluate, profile.latency
    counts: dict[str, tuple[float, int]] = {
        "seed": (profile.seed, 0),
        "data.seed": (data.seed, 0),
        "data.train_scenes": (data.train_scenes, 0),
        "data.workers": (data.workers, 1),
        "train.threads": (train.threads, 1),
        "train.log_every": (train.log_every, 1),
        "train.workers": (train.workers, 0),
        "train.validate_samples": (train.validate_samples, 0),
        "evaluate.limit": (evaluate.limit, 0),
        "evaluate.batch": (evaluate.batch, 1),
        "evaluate.threads": (evaluate.threads, 1),
        "evaluate.seed": (evaluate.seed, 0),
        "ablation.limit": (profile.ablation.limit, 0),
        "ablation.settled_limit": (profile.ablation.settled_limit, 1),
        "ablation.order_limit": (profile.ablation.order_limit, 1),
        "latency.warmup": (latency.warmup, 0),
        "latency.requests": (latency.requests, 1),
        "latency.threads": (latency.threads, 1),
        "latency.price": (latency.price, 0),
    }
    for name, stage in profile.stages.items():
        for key in ("steps", "images", "per_image", "group_lengths"):
            counts[f"stages.{name}.{key}"] = (getattr(stage, key), 1)
        for key in ("micro_images", "seed", "validate_every"):
            counts[f"stages.{name}.{key}"] = (getattr(stage, key), 0)
    return counts


def resolved(profile: Profile) -> str:
    """The whole profile as YAML, to stand beside what it produced."""
    return OmegaConf.to_yaml(OmegaConf.structured(profile), resolve=True)
