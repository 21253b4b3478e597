"""One process of a run, started by test_processes.py: `worker.py BACKBONE JSON`, its place in the environment.

The JSON is a list of runs {folder, method, stage, settings, train, parts, mixed, kill, stop, clock, validate, live};
`mixed` makes each image's samples of one kind (boxes, masks, both, text without an image; in the pretraining with and
without targets of its auxiliary losses), in turns; `kill` is a step before whose update this process kills itself, if
it is the last rank and has not done so in an earlier start; `clock` notes the processor time of each process before
each micro-batch in `seconds-RANK`, `live` the bytes of all tensors after the run in `live`.
"""

import faulthandler
import gc
import json
import os
import signal
import sys
import time
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import torch

from bench.config import StageConfig, TrainConfig
from bench.data.sampler import MixtureComponent, Sampler
from bench.distributed import join
from bench.train.loop import Run, run_stage
from methods.base import Request, TrainingSample, UserError
from methods.internvl.chat import Turn
from methods.registry import method_class, resolve, stage_spec

spec = spec_from_file_location("shared_fixtures", Path(__file__).parents[2] / "conftest.py")
conftest = module_from_spec(spec)
spec.loader.exec_module(conftest)
CODECS = {"himtok": conftest.HIMTOK_SIZES, "argenseg": conftest.SHORT_SIZES}
KINDS = (("box",), ("segment",), ("segment", "box"), ("text",))  # of the images of a step, by their place


class InTurns(Sampler):
    """A sampler whose images each have samples of one kind; over the steps every process gets every kind."""

    def __init__(self, *words, masks: bool):
        super().__init__(*words)
        self.kinds = KINDS if masks else (("box",), ("bare",))

    def image_samples(self, step: int, slot: int, attempt: int = 0):
        kind = self.kinds[(slot + step) % len(self.kinds)]
        drawn = super().image_samples(step, slot, attempt)
        if kind == ("bare",):
            return [replace(each, example=replace(each.example, mask=None, semantic=None)) for each in drawn]
        return [replace(each, task=kind[place % len(kind)]) for place, each in enumerate(drawn)]


def without_images(processor) -> None:
    """Let `prepare` answer the task "text" with a sample that has no image."""
    prepare = processor.prepare

    def prepared(example, task, rng) -> TrainingSample:
        if task != "text":
            return prepare(example, task, rng)
        turns = [Turn("user", "how many squares are there"), Turn("assistant", example.expressions[0])]
        return TrainingSample(*processor.chat.encode(turns, 0, processor.mask_block))

    processor.prepare = prepared


def build(name: str, stage: str, backbone: str, more: dict):
    if stage == "tokenizer":
        trainee = resolve(stage_spec(name, stage).trainee)
        return conftest.liven(trainee.build({"mask_tokenizer_config": CODECS[name]} | more, lambda: conftest.CORPUS))
    parts = (
        {"size": "tiny", "vocabulary": 320}
        if name == "boxes"
        else {"backbone": backbone, "mask_tokenizer_config": CODECS[name]}
    )
    parts |= more
    return conftest.liven(method_class(name).build(parts, lambda: conftest.CORPUS))


def prepare(backbone: str, given: dict, context) -> Run:
    stage = StageConfig(**{"method": given["method"], "stage": given["stage"]} | given["settings"])
    train = TrainConfig(**{"threads": 1, "precision": "float32", "log_every": 1, "save_minutes": 1e9} | given["train"])
    tasks = {"box": 1.0} if given["method"] == "boxes" else {"segment": 0.8, "box": 0.2}
    tasks = {"segment": 1.0} if stage.stage == "tokenizer" else tasks
    data = conftest.Squares(6)
    mixture = [MixtureComponent(dict.fromkeys(tasks, data), tasks)]
    drawn = mixture, stage.images_per_step, stage.expressions_per_image, stage.seed
    mixed = given.get("mixed") and stage.stage != "tokenizer"
    order = InTurns(*drawn, masks=given["method"] != "boxes") if mixed else Sampler(*drawn)
    method = build(given["method"], stage.stage, backbone, given.get("parts", {}))
    if mixed:
        without_images(method.processor)
    validate = squares_seen if given.get("validate") else None
    return Run("test", Path(given["folder"]), method, order, stage, train, validate, context)


@torch.no_grad()
def squares_seen(method) -> dict[str, float]:
    """How likely a model finds the true answers, and how large it draws a mask."""
    example = conftest.Squares(1)[0]
    batch = method.processor.collate([method.processor.prepare(example, "box", np.random.default_rng(0))])
    masks = method.segment([Request(example.image, example.expressions)])[0].probabilities
    return {"loss": float(method.loss(batch)["text"]), "drawn": 0.0 if masks is None else float(masks.mean())}


def live_bytes() -> int:
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def arm(run: Run, given: dict) -> None:
    """Let the run meet what the test asks for at a step's first loss."""
    loss, calls = run.method.loss, []
    per_step = max(
        1, run.stage.images_per_step // (run.stage.micro_batch_images or run.stage.images_per_step) // run.context.size
    )
    mark = run.folder / "killed"

    def watched(batch):
        calls.append(1)
        if given.get("clock"):
            with (run.folder / f"seconds-{run.context.rank}").open("a") as seconds:
                print(time.process_time(), file=seconds)
        if run.context.rank == run.context.size - 1 and not mark.exists():
            if len(calls) == given.get("save", -1) * per_step:
                run.train.save_minutes = 0
            if len(calls) == given.get("kill", -1) * per_step:
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if len(calls) == given.get("stop", -1) * per_step:
                mark.touch()
                os.kill(os.getpid(), signal.SIGTERM)
            if len(calls) == given.get("nan", -1) * per_step:
                return {"text": next(run.method.parameters()).sum() * float("nan")}
        return loss(batch)

    run.method.loss = watched


def main() -> None:
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(500, exit=True)
    context = join()
    for given in json.loads(sys.argv[2]):
        run = prepare(sys.argv[1], given, context)
        arm(run, given)
        try:
            run_stage(run, torch.device("cpu"))
            if given.get("live"):
                folder, run = run.folder, None
                (folder / "live").write_text(str(live_bytes()))
        except SystemExit as end:  # at once, as bench.cli does, and for its reason
            os._exit(end.code)
        except UserError as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(2)
    context.leave()
    os._exit(0)


if __name__ == "__main__":
    main()
