"""A profile: one YAML file that says everything about a run, checked against the dataclasses below.

    genseg train profile=nano train.threads=1 seed=3

`profile` is a name in bench/profiles or a path; every other `key=value` overrides one value of the file. A key that
does not exist, or a value of the wrong type, is an error that names it. A file may begin with `base: NAME`: what it
does not say is then taken from that profile. Text is taken as it is written (`runs=2026_11_30` is no number), and a
leading ~ in a path is the user's home. What a value may be stands beside its field.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from bench.schema import MISSING, check, construct, merged, read_word, read_yaml, to_yaml, unknown
from methods.base import RULES, UserError
from methods.files import fill, printable, setting
from methods.registry import METHODS, backbone_sizes, method_spec, model_stage

PROFILES = Path(__file__).parent / "profiles"
SEEDS = 2**31 - 1  # the largest
MANY = 10**9
CORRECT = "correct it, or leave it out"
PROTOCOLS = ("per_expression", "per_object_joined", "shared", "official", "box_prompt", "point_prompt",
             "mask_prompt")  # fmt: skip  # see bench/evaluate/protocols.yaml
BACKENDS = ("fast", "cuda_graphs", "official")
TILES = (1, 5, 10)  # 1; 2 x 2 or 3 x 3 and a thumbnail: squares of up to twelve tiles, as InternVL cuts them
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass
class SourceConfig:
    """A dataset of a mixture to train on; see bench/data/mixture.py for what is taken where nothing is given."""

    dataset: str = ""  # a card of datasets/; the source's own name
    root: str = setting("", path=True)  # data.root
    images: str = setting("", path=True)  # data.images
    split_by: str = ""  # data.split_by, for the dataset of that name
    split: str = "train"
    styles: list[str] = field(default_factory=list)  # of expressions to keep; all
    repeat: float = setting(1.0, 0, 1e6)  # how often an epoch holds each image
    weight: float = setting(0.0, 0)  # share of the images instead, if all sources have one
    tasks: dict[str, float] = setting(low=0, factory=dict)  # those of the stage that the dataset can serve
    level: str = ""  # of the embedded dataset; data.level
    train_scenes: int = setting(0, 0, 10**8)  # of the embedded dataset; data.train_scenes


@dataclass
class DataConfig:
    """Where the images come from. `root` is built on first use if the dataset is the embedded one; a `mixture` (a
    name for each source) replaces it for training."""

    dataset: str = "refmoji"
    root: str = setting(MISSING, path=True)
    images: str = setting("", path=True)  # folder of the images, where it is not in the root
    split_by: str = ""  # which division into splits, where a dataset has several (umd or google); the card's
    level: str = "easy"
    seed: int = setting(0, 0, SEEDS)
    train_scenes: int = setting(0, 0, 10**8)  # 0: no training split
    # above 0, evaluation data are the embedded dataset's sealed split `test` alone, drawn from this seed; in a root of
    # their own
    test_seed: int = setting(0, 0, SEEDS)
    workers: int = setting(1, 1, 1024)  # processes that draw scenes
    allow_contamination: bool = False  # train on images that an evaluation split of `dataset` holds too
    # do without those sources of the mixture, and those datasets of `evaluate`, that are not on this disk
    skip_missing: bool = False
    mixture: dict[str, SourceConfig] = field(default_factory=dict)


@dataclass
class StageConfig:
    """One training run. `tasks` are weights per task, `model` what the method's StageSpec.config has; a value of
    `model` that reads `stage:NAME` stands for the model that stage NAME saved."""

    method: str = MISSING
    stage: str = MISSING
    model: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, float] = setting(low=0, factory=dict)
    mixture: dict[str, float] = setting(low=0, factory=dict)  # source -> factor on it, 0: left out; none given: all
    steps: int = setting(MISSING, 1, MANY)
    images_per_step: int = setting(8, 1, 10**6)
    expressions_per_image: int = setting(2, 1, 10**4)
    # images per forward pass on one device; 0: `images_per_step` divided by the number of processes
    micro_batch_images: int = setting(0, 0, 10**6)
    pack: bool = False  # put the samples of a micro-batch into one row that no padding fills
    # steps among which images with samples of like length share a micro-batch; 1: as drawn
    length_bucketing: int = setting(1, 1, 10**6)
    # tokens of a sample at most; text beyond is cut off, and a sample whose image or mask would be cut is replaced by
    # another, as an image that cannot be used is; 0: any number
    max_length: int = setting(0, 0, MANY)
    # how micro-batches count in a step's loss: alike, or each by its learned tokens, so that with losses that are means
    # over tokens a step's loss is the mean over all of its tokens
    loss_normalisation: str = setting("micro_batch", choices=("micro_batch", "tokens"))
    lr: float = setting(1e-3, 0, 100)  # AdamW
    # Muon for the weights of linear layers (the head aside); 0: AdamW for them too
    muon_lr: float = setting(0.0, 0, 100)
    warmup: int = setting(50, 0, MANY)  # steps
    # how the rate falls: linear (over the last `decay_ratio`) or cosine (from the warm-up on)
    schedule: str = setting("linear", choices=("linear", "cosine"))
    # last share of the steps over which the rate falls linearly to `min_lr_ratio` times itself
    decay_ratio: float = setting(0.2, 0, 1)
    min_lr_ratio: float = setting(0.03, 0, 1)
    freeze: list[str] = field(default_factory=list)  # patterns of parameter names, on top of what the stage freezes
    lr_scale: dict[str, float] = setting(low=0, factory=dict)  # pattern of parameter names -> factor on the rate
    lora: dict[str, Any] = field(default_factory=dict)  # settings of peft's LoraConfig; empty: train the weights
    weight_decay: float = setting(0.05, 0, 100)
    betas: list[float] = setting(low=0, high=0.999999, factory=lambda: [0.9, 0.98])
    clip: float = setting(1.0, 0)
    weights: dict[str, float] = setting(low=0, factory=dict)  # of named losses, 1 where not given
    seed: int = setting(0, 0, SEEDS)
    validate_every: int = setting(0, 0, MANY)  # steps; 0: only at the end


@dataclass
class TrainConfig:
    """Settings that all stages share."""

    threads: int = setting(2, 1, 1024)
    precision: str = setting("auto", choices=PRECISIONS)
    log_every: int = setting(20, 1, MANY)  # steps
    save_minutes: float = setting(3.0, 0)  # between checkpoints at least; 0: one after every step, whatever it costs
    # of the time that checkpoints may take at most: after a slow one the next waits longer
    save_share: float = setting(0.02, 1e-6, 1)
    validate_samples: int = setting(64, 0, MANY)  # 0: no validation
    validate_split: str = "val"  # of the dataset; choices made by it must not be reported on the same split
    # stage of DeepSpeed's ZeRO; 0: plain data parallelism without DeepSpeed
    zero: int = setting(0, choices=(0, 1, 2, 3))
    offload: bool = False  # with zero: optimiser states (with zero 3 the weights too) in the CPU's memory
    checkpoint_activations: bool = False  # compute activations again in the backward pass
    # processes that prepare samples, per process that trains; -1: 4 beside a GPU, none without
    workers: int = setting(-1, -1, 1024)
    corrupt_ratio: float = setting(0.01, 0, 1)  # of the images that may be unusable before a run is stopped
    loss_spike_factor: float = setting(10.0, 0)  # stop if the loss exceeds this times its running mean (or 1); 0: never
    tensorboard: bool = False  # also write TensorBoard's events
    wandb: str = ""  # also log to this Weights & Biases project


@dataclass
class BenchmarkConfig:
    """A dataset among several that a profile evaluates on. What is not said is as `data` and `evaluate` have it."""

    dataset: str = ""  # a card of datasets/; the benchmark's own name
    root: str = setting("", path=True)  # data.root
    images: str = setting("", path=True)  # data.images, where the root is data.root
    split_by: str = ""  # data.split_by, for the dataset of that name
    options: dict[str, Any] = field(default_factory=dict)  # what else its reader is told: {ask: all}
    splits: list[str] = field(default_factory=list)
    protocols: list[str] = setting(choices=PROTOCOLS, factory=list)
    limit: int = setting(0, 0, MANY)
    batch: int = setting(0, 0, 10**6)


@dataclass
class EvaluateConfig:
    # name -> one of several datasets, in the order in which they are evaluated; none: data.dataset alone
    datasets: dict[str, BenchmarkConfig] = field(default_factory=dict)
    splits: list[str] = field(default_factory=lambda: ["val"])
    protocols: list[str] = setting(choices=PROTOCOLS, factory=lambda: ["per_expression"])
    limit: int = setting(0, 0, MANY)  # expressions per split, 0 for all
    # rules of decoding (methods.base.Decoding), side by side; `genseg segment` takes the first
    decode_rules: list[str] = setting(choices=RULES, factory=lambda: ["official"])
    temperature: float = setting(1.0, 1e-3, 1e3)  # of the rule "expected"
    tokens: list[int] = setting(low=1, factory=list)  # mask tokens to write, beside all of them
    # file or folder of what sharpens masks (SAM), for methods that have such; rows of their own
    refine: str = setting("", path=True)
    prefixes: bool = True  # the mask tokenizer's ceiling at every number of tokens, or at the full one alone
    batch: int = setting(0, 0, 10**6)  # questions at a time; 0: as many as pay and fit (see evaluate/cost.py)
    threads: int = setting(2, 1, 1024)
    precision: str = setting("float32", choices=PRECISIONS)
    seed: int = setting(0, 0, SEEDS)  # of the bootstrap and of the random baseline


@dataclass
class UntrainedConfig:
    """A method that is timed with random weights on backbones of named sizes. `model` as in a stage, without the
    backbone; `tokens` mask tokens to write (none: all); `tiles` and `sizes` where they are not the profile's."""

    method: str = MISSING
    model: dict[str, Any] = field(default_factory=dict)
    tokens: list[int] = setting(low=1, factory=list)
    tiles: list[int] = setting(choices=TILES, factory=list)
    sizes: list[str] = setting(choices=backbone_sizes(), factory=list)


@dataclass
class LatencyConfig:
    warmup: int = setting(10, 0, MANY)
    requests: int = setting(200, 1, MANY)
    # to the official backend, the first of them; 0: all. Its intervals are wider then
    official_requests: int = setting(0, 0, MANY)
    threads: int = setting(2, 1, 1024)
    precision: str = setting("float32", choices=PRECISIONS)
    backends: list[str] = setting(choices=BACKENDS, factory=lambda: ["fast", "official"])  # see methods.base.Decoding
    sizes: list[str] = setting(choices=backbone_sizes(), factory=list)  # backbones with random weights
    tiles: list[int] = setting(choices=TILES, factory=lambda: [1])  # of an image, the thumbnail included
    untrained: dict[str, UntrainedConfig] = field(default_factory=dict)  # methods on them, by a name for the tables
    int8: bool = False  # time with 8-bit weights in the language model; for trained models, with what they change
    scaling: bool = False  # also time batches, several expressions about an image, tiles and numbers of tokens
    price: float = setting(0.0, 0)  # of the machine per hour, for the cost of a million masks; 0: not told


@dataclass
class OrderConfig:
    """Another form of a method's model that must write the same tokens: `model` as in a stage, beside `start`."""

    method: str = MISSING
    model: dict[str, Any] = field(default_factory=dict)


@dataclass
class AblationConfig:
    """What `genseg ablation` asks; see bench/experiments/ablation.py."""

    limit: int = setting(300, 0, MANY)  # questions, 0 for all
    box_after: list[int] = setting(low=0, factory=lambda: [0, 16, 32])  # mask tokens before the box
    thresholds: list[float] = setting(low=0, high=1, factory=lambda: [0.3, 0.1, 0.05, 0.02])  # of the adaptive length
    early_exit_limit: int = setting(150, 1, MANY)  # objects for the adaptive length, which answers one by one
    # stage with one thing changed -> what its records call it, as settings: {hierarchy: off}
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    perception: str = ""  # stage that was taught to choose an expression for a mask
    # name of another decoding order -> the model that writes in it
    decoding_orders: dict[str, OrderConfig] = field(default_factory=dict)
    decoding_order_limit: int = setting(8, 1, MANY)  # questions for it, which may take hundreds of steps each


@dataclass
class Profile:
    name: str = MISSING
    description: str = ""
    note: str = ""  # what every record says beside its figure; "random weights" becomes a warning on the page
    seed: int = setting(0, 0, SEEDS)  # added to every stage's: another number is another training
    size: str = ""  # of InternVL2.5 (1B, 2B, 4B, 8B ...), in recipes that name their weights by it
    weights: str = setting("weights", path=True)  # folder of downloaded checkpoints
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    stages: dict[str, StageConfig] = field(default_factory=dict)
    # method -> whose model stands in the tables: a stage, or the folder of a checkpoint in an official layout or ours
    models: dict[str, str] = field(default_factory=dict)
    # method -> an official file whose mask tokenizer stands in place of the checkpoint's own
    mask_tokenizers: dict[str, str] = field(default_factory=dict)
    bundled: bool = False  # models are read from results/<name>/checkpoints if they are there, and not retrained
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)
    runs: str = setting("runs/${name}", path=True)
    results: str = setting("results/${name}", path=True)

    @property
    def runs_dir(self) -> Path:
        return Path(self.runs)

    @property
    def results_dir(self) -> Path:
        return Path(self.results)

    def checkpoint_of(self, method: str) -> Path | None:
        """The folder that `models` names for a method; None if it names a stage."""
        name = self.models[method]
        return Path(name).expanduser() if name not in self.stages and ("/" in name or name[:1] in ".~") else None

    def mask_tokenizer_of(self, method: str) -> Path | None:
        """The file that stands in place of a checkpoint's own mask tokenizer."""
        name = self.mask_tokenizers.get(method)
        return Path(name).expanduser() if name else None


def load_profile(source: str | Path, overrides: Sequence[str] = ()) -> Profile:
    """Read a profile by name or path and apply `key=value` overrides.

    Raises UserError naming the file and the key for anything unknown, missing or of the wrong type.
    """
    text = str(source)
    path = Path(source).expanduser() if text.endswith((".yaml", ".yml")) else PROFILES / f"{text}.yaml"
    if not _is_file(path):
        known = [p.stem for p in PROFILES.glob("*.yaml")]
        raise unknown(f"profile {printable(text, 300)!r}", text, known, "profile= takes a name or a YAML file's path")
    words = [read_word(word, Profile, f"{path} with {printable(word, 80)}") for word in overrides]
    profile = construct(Profile, merged([*_layers(path), *words]), str(path))
    check(profile, str(path))
    _check(profile, path)
    return profile


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _layers(path: Path, above: tuple[Path, ...] = ()) -> list[Any]:
    """A profile's file after those that it is based on, which are sought beside it and then among the bundled ones."""
    layer = read_yaml(path, Profile, "`bench/config.py` lists the keys", extra=("base",))
    if not isinstance(layer, dict):
        raise UserError(f"{path}: holds no keys; write name, data, stages and so on, as `bench/config.py` lists them.")
    base = layer.pop("base", None)
    if base is None:
        return [layer]
    above = (*above, path.resolve())
    places = [folder.resolve() / f"{base}.yaml" for folder in (path.parent, PROFILES)]
    found = next((place for place in places if _is_file(place) and place not in above), None)
    if found is None:
        raise UserError(f"{path}: no other profile {base!r} lies beside it or among the bundled ones to be its base.")
    return [*_layers(found, above), layer]


def _check(profile: Profile, path: Path) -> None:
    """What depends on more than one field."""
    if not profile.latency.backends:
        raise UserError(f"{path}: latency.backends is empty; name at least one of {', '.join(BACKENDS)}.")
    for key in ("splits", "protocols", "decode_rules"):
        values = getattr(profile.evaluate, key)
        if not values or len(set(values)) < len(values):
            raise UserError(f"{path}: evaluate.{key} is {values}; name at least one, and each once.")
    for name, source in profile.data.mixture.items():
        if source.repeat <= 0 and not source.weight:
            raise UserError(
                f"{path}: data.mixture.{name} has no positive repeat or weight; correct it or leave it out."
            )
    for name in profile.stages:
        if name in ("", ".") or any(part in name for part in ("/", "\\", "..", "\0")) or len(name.encode()) > 200:
            raise UserError(f"{path}: stage {name!r} gives its folder that name; choose one without /, \\ and dots.")
        _check_stage(profile, name, path)
        _check_against_method(profile.stages[name], f"stages.{name}", path)
        _check_origin(profile, name, path)
    for method, name in profile.models.items():
        _among(method, METHODS, f"method {method!r} in models", path)
        if profile.checkpoint_of(method) is not None:
            continue
        _among(name, profile.stages, f"stage {name!r} in models.{method}", path)
        if profile.stages[name].method != method:
            raise UserError(f"{path}: models.{method} is {name}, a stage of {profile.stages[name].method}.")
    if profile.train.offload and not profile.train.zero:
        raise UserError(f"{path}: train.offload is DeepSpeed's; give train.zero=1, 2 or 3 with it.")
    for name in [*profile.ablation.variants, *filter(None, [profile.ablation.perception])]:
        _among(name, profile.stages, f"stage {name!r} in ablation", path)
    for label, order in profile.ablation.decoding_orders.items():
        if order.method not in profile.models:
            raise UserError(f"{path}: ablation.decoding_orders.{label} is of {order.method!r}, which is not in models.")
    built: dict[str, OrderConfig | UntrainedConfig] = {}
    built |= {f"ablation.decoding_orders.{name}": order for name, order in profile.ablation.decoding_orders.items()}
    built |= {f"latency.untrained.{name}": model for name, model in profile.latency.untrained.items()}
    for key, model in built.items():
        _among(model.method, METHODS, f"method {model.method!r} in {key}", path)
        fill(model_stage(model.method).config, model.model, f"{path}: {key}.model", CORRECT)


def _check_stage(profile: Profile, name: str, path: Path) -> None:
    stage = profile.stages[name]
    if len(stage.betas) != 2:
        raise UserError(f"{path}: stages.{name}.betas has {len(stage.betas)} numbers, but must have 2.")
    if stage.pack and stage.length_bucketing > 1:
        raise UserError(
            f"{path}: stages.{name} has pack and length_bucketing, but a packed row has no padding; drop one."
        )
    for source in stage.mixture:
        if source not in profile.data.mixture:
            known = ", ".join(profile.data.mixture) or "nothing"
            raise UserError(f"{path}: stages.{name}.mixture names {source!r}, but data.mixture holds {known}.")


def _check_origin(profile: Profile, name: str, path: Path, above: tuple[str, ...] = ()) -> None:
    """Raise UserError if a stage builds on one that does not exist, or on itself."""
    if name in above:
        raise UserError(f"{path}: stage {name} builds on itself ({' -> '.join([*above, name])}); break the circle.")
    for value in profile.stages[name].model.values():
        if isinstance(value, str) and value.startswith("stage:"):
            _among(value[6:], profile.stages, f"stage {value[6:]!r} in stages.{name}.model", path)
            _check_origin(profile, value[6:], path, (*above, name))


def _check_against_method(stage: StageConfig, key: str, path: Path) -> None:
    """Raise UserError if a stage asks for what its method does not declare."""
    _among(stage.method, METHODS, f"method {stage.method!r} in {key}", path)
    declared = method_spec(stage.method).stages
    _among(stage.stage, declared, f"stage {stage.stage!r} of {stage.method} in {key}", path)
    spec = declared[stage.stage]
    fill(spec.config, stage.model, f"{path}: {key}.model", CORRECT)
    for task in stage.tasks:
        _among(task, spec.tasks, f"task {task!r} in {key}.tasks", path)
    for loss in stage.weights:
        _among(loss, spec.losses, f"loss {loss!r} in {key}.weights", path)


def _among(name: str, known: Iterable[str], what: str, path: Path) -> None:
    if name not in known:
        raise unknown(what, name, known, str(path))


def overview(profile: Profile, sections: Sequence[str] = (), stages: Iterable[str] = ()) -> str:
    """As YAML the profile's own values, and of its sections and stages the named ones."""
    whole = asdict(profile)
    parts = {each.name for each in fields(Profile) if is_dataclass(getattr(profile, each.name))}
    chosen = {name: value for name, value in whole.items() if name not in parts or name in sections}
    return to_yaml(chosen | {"stages": {name: whole["stages"][name] for name in stages}})


def resolved(profile: Profile) -> str:
    """The whole profile as YAML, to stand beside what it produced."""
    return to_yaml(asdict(profile))
