"""Methods, baselines and mask tokenizers answer into the same kind of file."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bench.config import EvaluateConfig
from bench.data import rle
from bench.evaluate.runner import predict_baseline, predict_method, predict_reconstructions, round_trip
from methods.common.masks import bilinear_mask

CONFIG = EvaluateConfig(protocols=["per_expression", "per_object_joined"], batch=4)


@pytest.fixture
def taught(writer, writing):
    return writing(writer)


def rows(path) -> list[dict]:
    return [json.loads(row) for row in path.read_text().splitlines()]


def identity(method, **more):
    return {"method": method.name, "weights": "w", "data": "d"} | more


def test_every_question_of_every_protocol_is_answered(taught, squares, tmp_path):
    paths = predict_method(taught, identity(taught), squares(2), "val", CONFIG, tmp_path)
    assert [path.name for path in paths.values()] == [f"{taught.name}.val.{p}.jsonl" for p in CONFIG.protocols]
    single, joined = map(rows, paths.values())
    assert (len(single), len(joined)) == (12, 6)
    assert {row["protocol"] for row in joined} == {"per_object_joined"}
    assert joined[0]["expression"] == "the red square | red one"
    for row in single + joined:
        assert rle.decode(row["mask"]).shape == (48, 64)
        assert len(row["token_ids"]) == taught.mask_tokenizer.length
        assert "no box in the answer" in row["failure"]


@pytest.mark.parametrize("protocol", ["per_expression", "shared"])
def test_a_method_is_asked_only_for_what_the_benchmark_scores(taught, squares, tmp_path, protocol):
    """And so is charged with no failure for another question that it does not answer."""
    dataset, config = squares(1), replace(CONFIG, protocols=[protocol])
    dataset.wants = ("mask",)
    (path,) = predict_method(taught, identity(taught), dataset, "val", config, tmp_path).values()
    assert {(row["failure"], row["box"], row["text"].count("<mask>")) for row in rows(path)} == {(None, None, 1)}


def test_a_budget_asks_for_masks_alone_and_names_its_file(taught, squares, tmp_path):
    tokens = taught.mask_tokenizer.prefixes[1]
    config = replace(CONFIG, protocols=["per_expression"])
    who = identity(taught, tokens=tokens)
    path = predict_method(taught, who, squares(1), "val", config, tmp_path, ("mask",))["per_expression"]
    assert path.name == f"{taught.name}.val.per_expression-{tokens:03d}.jsonl"
    assert {len(row["token_ids"]) for row in rows(path)} == {tokens}
    assert {row["failure"] for row in rows(path)} == {None}


def test_a_killed_evaluation_goes_on_to_the_same_bytes(taught, squares, tmp_path):
    whole = predict_method(taught, identity(taught), squares(2), "val", CONFIG, tmp_path / "whole")
    segment, calls = taught.segment, []

    def dying(requests, decoding):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return segment(requests, decoding)

    taught.segment = dying
    with pytest.raises(KeyboardInterrupt):
        predict_method(taught, identity(taught), squares(2), "val", CONFIG, tmp_path / "killed")
    taught.segment = segment
    again = predict_method(taught, identity(taught), squares(2), "val", CONFIG, tmp_path / "killed")
    assert [path.read_bytes() for path in again.values()] == [path.read_bytes() for path in whole.values()]


@pytest.mark.parametrize("change", [{"weights": "x"}, {"data": "y"}])
def test_other_weights_or_data_are_asked_anew(taught, squares, tmp_path, change):
    config = replace(CONFIG, protocols=["per_expression"], limit=2)
    path = predict_method(taught, identity(taught), squares(1), "val", config, tmp_path)["per_expression"]
    path.write_text("old\n")
    predict_method(taught, identity(taught), squares(1), "val", config, tmp_path)
    assert path.read_text() == "old\n"
    predict_method(taught, identity(taught) | change, squares(1), "val", config, tmp_path)
    assert len(rows(path)) == 2


def test_settings_that_change_answers_ask_anew_and_others_do_not(taught, squares, tmp_path):
    config = replace(CONFIG, protocols=["per_expression"], limit=2)
    path = predict_method(taught, identity(taught), squares(1), "val", config, tmp_path)["per_expression"]
    for change, kept in (({"threads": 7}, True), ({"limit": 3}, False), ({"batch": 5, "limit": 3}, False)):
        path.write_text("old\n")
        predict_method(taught, identity(taught), squares(1), "val", replace(config, **change), tmp_path)
        assert (path.read_text() == "old\n") == kept, change


def test_baselines_answer_the_same_questions(squares, tmp_path):
    name = "baseline:random-object"
    paths = predict_baseline(name, {"method": name, "data": "d"}, squares(2), "val", CONFIG, tmp_path)
    assert [path.name for path in paths.values()] == [f"baseline-random-object.val.{p}.jsonl" for p in CONFIG.protocols]
    assert [len(rows(path)) for path in paths.values()] == [12, 6]
    masks = [example.mask for example in squares(2).examples]
    for row in rows(paths["per_expression"]):
        assert any(np.array_equal(rle.decode(row["mask"]), mask) for mask in masks)
    again = predict_baseline(name, {"method": name, "data": "d"}, squares(2), "val", CONFIG, tmp_path / "b")
    assert [path.read_bytes() for path in again.values()] == [path.read_bytes() for path in paths.values()]
    other = predict_baseline(
        name, {"method": name, "data": "d"}, squares(2), "val", replace(CONFIG, seed=1), tmp_path / "c"
    )
    assert other["per_expression"].read_bytes() != paths["per_expression"].read_bytes()


def test_a_mask_tokenizer_is_measured_at_every_prefix_on_every_object(writer, squares, tmp_path):
    paths = predict_reconstructions(writer.mask_tokenizer, identity(writer), squares(2), "val", CONFIG, tmp_path)
    tokens = (0, *writer.mask_tokenizer.prefixes)  # 0: the way to the grid and back alone
    assert {n: path.name for n, path in paths.items()} == {
        n: f"{writer.name}.val.reconstruction-{n:03d}.jsonl" for n in tokens
    }
    for path in paths.values():
        assert [row["ref_id"] for row in rows(path)] == [example.ref_id for example in squares(2).examples]
        assert {row["protocol"] for row in rows(path)} == {"reconstruction"}
    alone, whole = predict_reconstructions(
        writer.mask_tokenizer, identity(writer), squares(2), "val", replace(CONFIG, prefixes=False), tmp_path / "whole"
    ).values()
    assert alone.read_bytes() == paths[0].read_bytes()
    assert whole.read_bytes() == paths[max(paths)].read_bytes()


class Faithful(torch.nn.Module):
    """A mask tokenizer that stores images as they are, at 32 x 32."""

    resolution, length, size, prefixes = 32, 1, 99, (1,)

    def __init__(self):
        super().__init__()
        self.kept: dict[int, torch.Tensor] = {}
        self.place = torch.nn.Parameter(torch.zeros(1))

    def preprocess_mask(self, mask):
        return np.asarray(Image.fromarray(mask.astype(np.float32)).resize((self.resolution,) * 2))

    def postprocess_mask(self, probabilities, size):
        return bilinear_mask(probabilities, size)

    def encode(self, masks, tokens):
        for mask in masks:
            self.kept[len(self.kept)] = mask[0]
        return torch.arange(len(self.kept) - len(masks), len(self.kept))[:, None]

    def decode(self, ids):
        return torch.stack([self.kept[int(row[0])] for row in ids])


def test_a_round_trip_goes_through_the_mask_tokenizers_view_and_back(writer, examples):
    writer.mask_tokenizer = Faithful()
    found = round_trip(writer.mask_tokenizer, examples, 1)
    for prediction, example in zip(found, examples, strict=True):
        assert prediction.mask.shape == example.mask.shape
        overlap = (prediction.mask & example.mask).sum() / (prediction.mask | example.mask).sum()
        assert overlap > 0.85


def test_a_round_trip_uses_the_first_tokens_only(writer, examples):
    seen = []
    decode = writer.mask_tokenizer.decode
    writer.mask_tokenizer.decode = lambda ids: seen.append(ids.shape[1]) or decode(ids)
    tokens = writer.mask_tokenizer.prefixes[1]
    assert len(round_trip(writer.mask_tokenizer, examples, tokens)) == len(examples)
    assert seen == [tokens]
