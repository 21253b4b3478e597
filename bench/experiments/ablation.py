"""What each part is worth: `genseg ablation` asks the profile's models in other ways, and models with one part changed.

On the validation split, `ablation.limit` samples:
- tokens=N: masks written with the first N tokens only, for every prefix that the mask tokenizer can decode;
- box_after=N: the box written after N mask tokens, where a method can write its mask first;
- the models of `ablation.decoding_orders`, which must write the same tokens: how many do, and the times of both;
- early_exit=T: a mask ends when it has changed by at most T (adaptive length), with the tokens spent;
- the models of `ablation.variants`: trained with one thing changed, the same samples and the reconstruction bound (for
  mask tokenizers the bound alone);
- perception: the right expression for a given mask, by the model of `ablation.perception`;
- differences, sample by sample, of the two sides of each of the papers' claims (claims.yaml) and of two methods that
  were changed alike. A variant with `seed` is another training of the same: the differences, and the scores themselves,
  are then means over the trainings.

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
from bench.data.splits import own_benchmark
from bench.evaluate.perception import ask, likeliest, score, summary
from bench.evaluate.plan import objects_of, plan
from bench.evaluate.run import checked_split, predictions_dir, score_reconstructions, scores_of, shown
from bench.evaluate.run import score as score_file
from bench.evaluate.runner import predict_method
from bench.evaluate.statistics import ratio_intervals
from bench.experiments.differences import SEED, AblationScores
from bench.latency import decoding_orders
from bench.records import PERCEPTION, Record, Settings, describe, write_records
from bench.refmoji.prepare import prepare_data
from bench.runtime import answering_in, device_of, digest, provenance, resolve_precision
from bench.train.stages import finished_model
from methods.base import Request
from methods.files import file_name, printable
from methods.registry import method_class, method_spec, resolve, stage_spec

SPLIT, MAIN = "val", "as it is"


def ablation(profile: Profile, models: Mapping[str, Path]) -> list[Record]:
    """Measure everything above -> records/ablation*.jsonl. models: method -> the folder of its weights."""
    prepare_data(profile, train=False)
    torch.set_num_threads(profile.evaluate.threads)
    profile = replace(profile, evaluate=replace(profile.evaluate, limit=profile.ablation.limit))
    stem = profile.results_dir / "records" / own_benchmark(profile).place("ablation")
    records: list[Record] = []
    mask_tokenizers: dict[str, torch.nn.Module | None] = {}
    scores = AblationScores()
    again = {profile.stages[stage].method for stage, told in profile.ablation.variants.items() if told.keys() == {SEED}}
    for name, folder in models.items():
        subject = Subject(profile, name, folder, scores)
        mask_tokenizers[name] = subject.method.mask_tokenizer
        records += subject.token_budgets() + subject.boxes_after() + subject.early_exits() + subject.orders()
        if name in again:  # the first of several trainings; its scores are the main table's
            subject.whole_answers()
    write_records(f"{stem}.jsonl", records)
    for stage, variant in profile.ablation.variants.items():
        model = finished_model(profile, stage)
        if model is None:
            told = f"stage {stage} was not trained here, its records stay as they are (`genseg train {stage}`)"
            print(printable(f"{describe(variant)}: {told}"))
            continue
        trained = profile.stages[stage]
        subject = Subject(profile, trained.method, model, scores, variant, trained.stage)
        alone = stage_spec(trained.method, trained.stage).mask_tokenizer
        found = subject.reconstructions() if alone else subject.whole(mask_tokenizers.get(trained.method))
        if variant.keys() == {SEED}:
            found += subject.token_budgets() + subject.boxes_after()
        write_records(f"{stem}-{file_name(stage)}.jsonl", found)
        records += found
    stage = profile.ablation.perception
    model = finished_model(profile, stage) if stage else None
    if model:
        found = Subject(profile, profile.stages[stage].method, model, scores).perception()
        write_records(f"{stem}.perception.jsonl", found)
        records += found
    means = scores.means(profile.evaluate.seed)
    if means:
        write_records(f"{stem}.trainings.jsonl", means)
    return records + means + scores.differences(Path(f"{stem}.differences.jsonl"), profile.evaluate.seed)


class Subject:
    """One model under questions. `variant`: what was changed in it, nothing for a main model.

    `stage`: what was trained, if that is not the method's model. The files of scores are noted in `scores`."""

    def __init__(
        self,
        profile: Profile,
        name: str,
        folder: Path,
        scores: AblationScores,
        variant: Settings | None = None,
        stage: str = "",
    ):
        self.profile, self.name, self.folder, self.scores, self.variant = profile, name, folder, scores, variant or {}
        kind = resolve(stage_spec(name, stage).trainee) if stage else method_class(name)
        self.method = kind.from_pretrained(folder).to(device_of())
        self.masks = self.method.mask_tokenizer
        self.weights = digest(folder)
        benchmark = own_benchmark(profile)
        self.dataset, self.place = checked_split(benchmark, SPLIT), benchmark.place(SPLIT)
        self.facts = provenance(profile, name, self.weights, profile.evaluate.precision, self.method)

    def token_budgets(self) -> list[Record]:
        counts = self.masks.prefixes if self.masks else ()
        return [r for n in counts for r in self._ask(self.variant, ("mask",), n, told=n)]

    def boxes_after(self) -> list[Record]:
        """The box after 0, some and all mask tokens, for methods that write boxes and can write fewer tokens."""
        records: list[Record] = []
        if "box" not in method_spec(self.name).wants:
            return records
        for count in self.profile.ablation.box_after:
            if count == 0:
                records += self._ask(self.variant | {"box_after": 0}, ("box",))
            elif self.masks and count in self.masks.prefixes:
                records += self._ask(self.variant | {"box_after": count}, ("mask", "box"), count)
        boxes = ("acc@", "failures")
        return [record for record in records if record.metric.startswith(boxes)]

    def early_exits(self) -> list[Record]:
        """gIoU, IoU lost against the full length, and tokens spent, for each threshold."""
        curve = method_spec(self.name).adaptive_length
        if curve is None:
            return []
        indices = objects_of(
            self.dataset, plan(self.dataset, "per_object_joined", self.profile.ablation.early_exit_limit)
        )
        examples = [self.dataset[index] for index in indices]
        images = [example.image_id for example in examples]
        records = []
        for spent in resolve(curve)(self.method, examples, self.profile.ablation.thresholds):
            ones = np.ones(len(examples))
            table = {"giou": (spent.iou, ones), "giou_lost": (spent.lost, ones), "tokens_spent": (spent.tokens, ones)}
            variant = {"early_exit": "never" if spent.threshold is None else spent.threshold}
            records += self._records(variant, table, images)
        return records

    def orders(self) -> list[Record]:
        """This model against itself in other decoding orders, one request at a time."""
        config, device, records = self.profile.ablation, self.method.device, []
        limit = min(config.decoding_order_limit, config.limit or config.decoding_order_limit)
        questions = plan(self.dataset, "per_expression", limit)
        requests = [Request(self.dataset[q.index].image, q.expressions) for q in questions]
        precision = resolve_precision(self.profile.evaluate.precision, device)
        place = {"dataset": self.profile.data.dataset, "split": SPLIT}
        for name, form in config.decoding_orders.items():
            if form.method != self.name:
                continue
            config_ = {**form.model, "start": str(self.folder)}
            other = method_class(self.name).build(config_, lambda: ()).to(device).eval()
            with answering_in(other, precision):
                pairs = decoding_orders.ask_both(self.method, other, requests, 1, f"{self.name} order={name}")
            records += decoding_orders.to_records(pairs, **self.facts | place | {"variant": {"order": name}})
        return records

    def whole(self, usual: torch.nn.Module | None = None) -> list[Record]:
        """The ordinary samples and the reconstruction bound; no bound if the mask tokenizer is the `usual`."""
        records = self.whole_answers()
        return records if same_weights(self.masks, usual) else records + self.reconstructions()

    def whole_answers(self) -> list[Record]:
        """The ordinary samples, masks of the usual length."""
        return self._ask(self.variant, ("mask", "box"))

    def reconstructions(self) -> list[Record]:
        """The mask tokenizer's own scores at every prefix."""
        label = describe(self.variant)
        identity, folder = self._identity(label), self._predictions(f"{label} reconstruction")
        facts = self.facts | {"variant": self.variant}
        return score_reconstructions(self.profile, self.masks, identity, self.dataset, folder, facts)

    def perception(self) -> list[Record]:
        questions = PerceptionSet(self.dataset, seed=self.profile.evaluate.seed)
        questions = [questions[i] for i in range(min(len(questions), self.profile.ablation.limit or len(questions)))]
        images = [question.image_id for question in questions]
        found = summary(
            score(questions, ask(self.method, questions, several=False)), images, self.profile.evaluate.seed
        )
        likely = summary(score(questions, likeliest(self.method, questions)), images, self.profile.evaluate.seed)
        found["likeliest"] = likely["accuracy"]
        return [self._record({}, name, figure, len(questions), kind=PERCEPTION) for name, figure in found.items()]

    def _ask(
        self, variant: Settings, want: tuple[str, ...], tokens: int | None = None, told: int | None = None
    ) -> list[Record]:
        """tokens: mask tokens to spend; told: as records have them, where they are what is varied."""
        label = describe(variant, told) or MAIN
        paths = predict_method(
            self.method, self._identity(label, tokens), self.dataset, self.place, self.profile.evaluate,
            self._predictions(label), want,
        )  # fmt: skip
        facts, records = self.facts | {"variant": variant, "tokens": told}, []
        for path in paths.values():
            records += shown(score_file(self.profile, path, self.dataset, facts))
        usual = paths.get("per_expression") or next(iter(paths.values()))  # the report shows it too
        self.scores.add(self.name, variant, told, scores_of(self.profile, usual), self.facts)
        return records

    def _identity(self, label: str, tokens: int | None = None) -> dict[str, Any]:
        same = {"method": self.name, "weights": self.weights, "data": self.dataset.digest()}
        return same | {"variant": label} | ({"tokens": tokens} if tokens else {})

    def _predictions(self, label: str) -> Path:
        return predictions_dir(self.profile) / "ablation" / file_name(label)

    def _records(self, variant: Settings, table: Any, images: Sequence[Any]) -> list[Record]:
        found = ratio_intervals(table, images, self.profile.evaluate.seed)
        return [
            self._record(variant, name, figure, len(images), protocol="per_expression")
            for name, figure in found.items()
            if np.isfinite(figure.value)
        ]

    def _record(self, variant: Settings, metric: str, figure: Any, n: int, **more: str) -> Record:
        return Record(
            metric=metric, value=figure.value, low=figure.low, high=figure.high, n=n,
            dataset=self.profile.data.dataset, split=SPLIT, seed=self.profile.evaluate.seed,
            **self.facts | {"variant": variant} | more,
        )  # fmt: skip


def same_weights(first: torch.nn.Module | None, second: torch.nn.Module | None) -> bool:
    """Whether two modules hold the same tensors, as far as float16 tells: shipped weights were rounded to it. Of two
    without weights nobody knows."""
    if first is None or second is None:
        return first is second
    here, there = first.state_dict(), second.state_dict()
    alike = bool(here) and here.keys() == there.keys() and all(here[name].shape == there[name].shape for name in here)
    return alike and all(torch.equal(here[name].half(), there[name].half()) for name in here)
