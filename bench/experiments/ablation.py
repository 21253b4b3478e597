"""What each part is worth: `genseg ablation` asks the profile's models in other ways, and models with one part changed.

On the validation split, `ablation.limit` questions:
- tokens=N: masks written with the first N tokens only, for every prefix that the codec can decode;
- box_after=N: the box written after N mask tokens, where a method can write its mask first;
- the forms of `ablation.orders`, which must write the same tokens: the answers that do, and the seconds of both;
- settled=T: a mask ends when it has changed by at most T (HiMTok's adaptive length), with the tokens spent;
- the models of `ablation.variants`: trained with one thing changed, the same questions and the codec's ceiling (for
  tokenizers the ceiling alone);
- perception: the right expression for a given mask, by the model of `ablation.perception`;
- differences, question by question, of the two variants of each of the papers' claims in `experiments/claims.py`.

A variant that was not trained here keeps the records that are there: training it is `genseg train STAGE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.config import Profile
from bench.data.perception import PerceptionSet
from bench.data.splits import named
from bench.evaluate.perception import ask, likeliest, score, summary
from bench.evaluate.plan import objects_of, plan
from bench.evaluate.run import checked_split, predictions_dir, scores_of, shown
from bench.evaluate.run import score as score_file
from bench.evaluate.runner import predict_codec, predict_method
from bench.evaluate.scoring import compare
from bench.evaluate.statistics import ratio_intervals
from bench.experiments.claims import CLAIMS
from bench.latency import orders
from bench.records import DIFFERENCE, PERCEPTION, Record, read_records, write_records
from bench.refmoji.prepare import prepare_data
from bench.runtime import device_of, digest, provenance, resolve_precision
from bench.train.stages import finished_model
from methods.base import Request
from methods.files import file_name, printable, read_lines
from methods.registry import method_class, method_spec, resolve, stage_spec

SPLIT = "val"
Scores = dict[tuple[str, str], tuple[Path, dict[str, Any]]]  # (method, variant) -> file of scores, facts of the model


def ablation(profile: Profile, models: Mapping[str, Path]) -> list[Record]:
    """Measure everything above -> records/ablation*.jsonl. models: method -> the folder of its weights."""
    prepare_data(profile, train=False)
    torch.set_num_threads(profile.evaluate.threads)
    profile = replace(profile, evaluate=replace(profile.evaluate, limit=profile.ablation.limit))
    stem = profile.results_dir / "records" / named(profile, "ablation")
    records: list[Record] = []
    codecs: dict[str, torch.nn.Module | None] = {}
    scores: Scores = {}
    for name, folder in models.items():
        subject = Subject(profile, name, folder, scores)
        codecs[name] = subject.method.mask_tokenizer
        records += subject.token_budgets() + subject.boxes_after() + subject.settled() + subject.orders()
    write_records(f"{stem}.jsonl", records)
    for label, stage in profile.ablation.variants.items():
        model = finished_model(profile, stage)
        if model is None:
            told = f"{label}: stage {stage} was not trained here, its records stay as they are (`genseg train {stage}`)"
            print(printable(told))
            continue
        trained = profile.stages[stage]
        subject = Subject(profile, trained.method, model, scores, label, trained.stage)
        alone = stage_spec(trained.method, trained.stage).mask_tokenizer
        found = subject.ceiling() if alone else subject.whole(codecs.get(trained.method))
        write_records(f"{stem}-{file_name(stage)}.jsonl", found)
        records += found
    stage = profile.ablation.perception
    model = finished_model(profile, stage) if stage else None
    if model:
        found = Subject(profile, profile.stages[stage].method, model, scores).perception()
        write_records(f"{stem}.perception.jsonl", found)
        records += found
    records += differences(scores, Path(f"{stem}.differences.jsonl"), profile.evaluate.seed)
    return records


def differences(scores: Scores, path: Path, seed: int) -> list[Record]:
    """A record per claim whose two variants were both asked; those of other claims stay in the file."""
    known = {record.key: record for record in read_records(path)} if path.exists() else {}
    for claim in CLAIMS:
        pair = [scores.get((claim.method, variant)) for variant in (claim.more, claim.less)]
        if None in pair:
            continue
        rows = [[row for _, row in read_lines(file)] for file, _ in pair]
        found = compare(*rows, seed=seed).get(claim.metric)
        if found:
            record = Record(
                metric=claim.metric, value=found.value, low=found.low, high=found.high, n=len(rows[0]),
                protocol=DIFFERENCE, dataset=rows[0][0]["dataset"], split=SPLIT, seed=seed,
                note=f"p = {found.p:.4f}", **pair[0][1] | {"variant": claim.pair},
            )  # fmt: skip
            known[record.key] = record
    if known:
        write_records(path, known.values())
    return list(known.values())


class Subject:
    """One model under questions. `label` is the variant under which its records stand, empty for a main model.

    `stage`: what was trained, if that is not the method's model. The files of scores are noted in `scores`."""

    def __init__(self, profile: Profile, name: str, folder: Path, scores: Scores, label: str = "", stage: str = ""):
        self.profile, self.name, self.folder, self.scores, self.label = profile, name, folder, scores, label
        kind = resolve(stage_spec(name, stage).trainee) if stage else method_class(name)
        self.method = kind.from_pretrained(folder).to(device_of())
        self.masks = self.method.mask_tokenizer
        self.weights = digest(folder)
        self.dataset, self.place = checked_split(profile, SPLIT), named(profile, SPLIT)
        self.facts = provenance(profile, name, self.weights, profile.evaluate.precision, self.method)

    def token_budgets(self) -> list[Record]:
        counts = self.masks.prefixes if self.masks else ()
        return [r for n in counts for r in self._ask(f"tokens={n}", ("mask",), n)]

    def boxes_after(self) -> list[Record]:
        """The box after 0, some and all mask tokens, for methods that can write fewer than all."""
        records: list[Record] = []
        for count in self.profile.ablation.box_after:
            if count == 0:
                records += self._ask("box_after=0", ("box",), None)
            elif self.masks and count in self.masks.prefixes:
                records += self._ask(f"box_after={count}", ("mask", "box"), count)
        boxes = ("acc@", "failures")
        return [record for record in records if record.metric.startswith(boxes)]

    def settled(self) -> list[Record]:
        """gIoU, IoU lost against the full length, and tokens spent, for each tolerance."""
        curve = method_spec(self.name).adaptive_length
        if curve is None:
            return []
        indices = objects_of(self.dataset, plan(self.dataset, "per_object_joined", self.profile.ablation.settled_limit))
        examples = [self.dataset[index] for index in indices]
        images = [example.image_id for example in examples]
        records = []
        for spent in resolve(curve)(self.method, examples, self.profile.ablation.tolerances):
            ones = np.ones(len(examples))
            table = {"giou": (spent.iou, ones), "giou_lost": (spent.lost, ones), "tokens_spent": (spent.tokens, ones)}
            variant = "settled=never" if spent.threshold is None else f"settled={spent.threshold:g}"
            records += self._records(variant, table, images, "per_expression")
        return records

    def orders(self) -> list[Record]:
        """This model against its other forms, one request at a time."""
        config, device, records = self.profile.ablation, self.method.device, []
        questions = plan(self.dataset, "per_expression", min(config.order_limit, config.limit or config.order_limit))
        requests = [Request(self.dataset[q.index].image, q.expressions) for q in questions]
        precision = resolve_precision(self.profile.evaluate.precision, device)
        place = {"dataset": self.profile.data.dataset, "split": SPLIT}
        for label, form in config.orders.items():
            if form.method != self.name:
                continue
            config_ = {**form.model, "start": str(self.folder)}
            other = method_class(self.name).build(config_, lambda: ()).to(device).eval()
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                pairs = orders.ask_both(self.method, other, requests, 1, f"{self.name} {label}")
            records += orders.to_records(pairs, **self.facts | place | {"variant": label})
        return records

    def whole(self, usual: torch.nn.Module | None = None) -> list[Record]:
        """The ordinary questions and the codec's ceiling, under the label; no ceiling if the codec is the `usual`."""
        records = self._ask(self.label, ("mask", "box"), None)
        return records if same_weights(self.masks, usual) else records + self.ceiling()

    def ceiling(self) -> list[Record]:
        """The codec's own scores at every prefix, under the label."""
        records: list[Record] = []
        identity = self._identity(self.label, ("mask",), None)
        folder = self._predictions(f"{self.label} codec")
        for path in predict_codec(self.masks, identity, self.dataset, self.place, self.profile.evaluate, folder):
            variant = f"{self.label}, tokens={int(path.stem.rsplit('-', 1)[1])}"
            records += shown(score_file(self.profile, path, self.dataset, self.facts | {"variant": variant}))
        return records

    def perception(self) -> list[Record]:
        questions = PerceptionSet(self.dataset, seed=self.profile.evaluate.seed)
        questions = [questions[i] for i in range(min(len(questions), self.profile.ablation.limit or len(questions)))]
        images = [question.image_id for question in questions]
        found = summary(
            score(questions, ask(self.method, questions, several=False)), images, self.profile.evaluate.seed
        )
        likely = summary(score(questions, likeliest(self.method, questions)), images, self.profile.evaluate.seed)
        found["likeliest"] = likely["accuracy"]
        return [
            self._record("", f"perception/{name}", figure, len(questions), PERCEPTION) for name, figure in found.items()
        ]

    def _ask(self, variant: str, want: tuple[str, ...], tokens: int | None) -> list[Record]:
        paths = predict_method(
            self.method, self._identity(variant, want, tokens), self.dataset, self.place, self.profile.evaluate,
            self._predictions(variant), want,
        )  # fmt: skip
        facts, records = self.facts | {"variant": variant}, []
        for protocol, path in zip(self.profile.evaluate.protocols, paths, strict=True):
            records += shown(score_file(self.profile, path, self.dataset, facts))
            if protocol == "per_expression" or (self.name, variant) not in self.scores:  # the report shows it too
                self.scores[self.name, variant] = scores_of(self.profile, path), self.facts
        return records

    def _identity(self, variant: str, want: tuple[str, ...], tokens: int | None) -> dict[str, Any]:
        same = {"method": self.name, "weights": self.weights, "data": self.dataset.digest()}
        return same | {"variant": variant, "want": want} | ({"tokens": tokens} if tokens else {})

    def _predictions(self, variant: str) -> Path:
        return predictions_dir(self.profile) / "ablation" / file_name(variant)

    def _records(self, variant: str, table: Any, images: Sequence[Any], protocol: str) -> list[Record]:
        found = ratio_intervals(table, images, self.profile.evaluate.seed)
        return [
            self._record(variant, name, figure, len(images), protocol)
            for name, figure in found.items()
            if np.isfinite(figure.value)
        ]

    def _record(self, variant: str, metric: str, figure: Any, n: int, protocol: str) -> Record:
        return Record(
            metric=metric, value=figure.value, low=figure.low, high=figure.high, n=n, protocol=protocol,
            dataset=self.profile.data.dataset, split=SPLIT, seed=self.profile.evaluate.seed,
            **self.facts | {"variant": variant},
        )  # fmt: skip


def same_weights(first: torch.nn.Module | None, second: torch.nn.Module | None) -> bool:
    """Whether two modules hold the same tensors, as far as float16 tells: shipped weights were rounded to it."""
    if first is None or second is None:
        return first is second
    here, there = first.state_dict(), second.state_dict()
    alike = here.keys() == there.keys() and all(here[name].shape == there[name].shape for name in here)
    return alike and all(torch.equal(here[name].half(), there[name].half()) for name in here)
