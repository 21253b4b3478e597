"""Rows beside a model's usual ones: requested numbers of mask tokens, refined masks, prompts in place of words."""

import json

import numpy as np
import pytest

from bench.data import rle
from bench.evaluate import run
from bench.evaluate.protocols import asks, protocol_of
from bench.evaluate.variants import Variant
from bench.records import REFINED, describe
from bench.report.tables import ablations, accuracy
from bench.train.models import find_models
from methods.base import Decoding, Example, UserError


def rows(path) -> list[dict]:
    return [json.loads(row) for row in path.read_text().splitlines()]


@pytest.fixture
def himtok(small, random_sam):
    """The small profile with HiMTok alone; a SAM lies in "sam"."""
    random_sam().save_pretrained("sam")
    small.models = {"himtok": "himtok"}
    small.evaluate.protocols = ["per_expression"]
    return small


@pytest.mark.parametrize(
    ("variant", "identity", "told"),
    [
        (Variant("official"), {}, ""),
        (Variant("hard", tokens=8), {"rule": "hard", "tokens": 8}, "rule=hard, tokens=8"),
        (Variant("expected"), {"rule": "expected", "temperature": 1.0}, "rule=expected"),
        (Variant("official", refiner="ab"), {"refiner": "ab"}, "+SAM"),
    ],
)
def test_a_variant_is_told_by_what_differs(variant, identity, told):
    assert variant.identity == identity
    assert describe(variant.facts.get("variant", {}), variant.facts.get("tokens")) == told
    assert variant.decoding == Decoding(rule=variant.rule)


def test_refined_masks_have_rows_beside_the_others_of_the_same_answers(himtok, asked):
    plain = run.evaluate(himtok, find_models(himtok))
    path = run.predictions_dir(himtok) / "himtok.val.per_expression.jsonl"
    expected = path.read_bytes()
    path.unlink()
    asked.clear()
    himtok.evaluate.refine = "sam"
    records = run.evaluate(himtok, find_models(himtok))
    assert sum(asked) == himtok.evaluate.limit  # one pass serves both
    assert path.read_bytes() == expected
    refined = rows(path.with_name("himtok.val.per_expression-refined.jsonl"))
    assert [row["token_ids"] for row in refined] == [row["token_ids"] for row in rows(path)]
    assert [row.pop("coarse") for row in refined] == [row["mask"] for row in rows(path)]
    assert any(new["mask"] != old["mask"] for new, old in zip(refined, rows(path), strict=True))
    figures = {(r.label, r.metric): r.value for r in records if r.kind == "score"}
    assert figures["himtok (+SAM)", "giou"] != figures["himtok", "giou"]
    assert [r for r in records if r.variant != REFINED] == plain
    (table,) = accuracy(records)
    assert {"himtok", "himtok (+SAM)"} <= {row["method"] for row in table.rows}
    assert not ablations(records)
    asked.clear()
    assert run.evaluate(himtok, find_models(himtok)) == records
    assert not asked


def test_another_sam_refines_again(himtok, random_sam):
    himtok.evaluate.refine = "sam"
    run.evaluate(himtok, find_models(himtok))
    path = run.predictions_dir(himtok) / "himtok.val.per_expression-refined.jsonl"
    first = path.read_bytes()
    other = random_sam()
    other.mask_decoder.upscale_conv2.bias.data.fill_(1.0)
    other.save_pretrained("sam")
    run.evaluate(himtok, find_models(himtok))
    assert path.read_bytes() != first


def test_a_method_that_cannot_be_refined_is_left_out_or_told(small, random_sam):
    random_sam().save_pretrained("sam")
    small.evaluate.refine, small.evaluate.protocols, small.evaluate.limit = "sam", ["per_expression"], 2
    records = run.evaluate(small, find_models(small))
    assert {r.method for r in records if r.variant == REFINED} == {"himtok"}
    small.models = {"argenseg": "argenseg"}
    with pytest.raises(UserError, match="argenseg: masks cannot be refined"):
        run.evaluate(small, find_models(small))


def test_requested_numbers_of_tokens_have_rows_of_their_own(himtok):
    himtok.evaluate.tokens = [8, 16]
    records = run.evaluate(himtok, find_models(himtok))
    assert {r.tokens for r in records if r.kind == "score" and r.method == "himtok"} == {None, 8, 16}
    for tokens in (8, 16):
        lines = rows(run.predictions_dir(himtok) / f"himtok.val.per_expression-{tokens:03d}.jsonl")
        assert {len(row["token_ids"]) for row in lines} == {tokens}


def test_numbers_that_cannot_be_requested_are_told(small, capsys):
    small.evaluate.tokens, small.evaluate.limit, small.evaluate.protocols = [8], 2, ["per_expression"]
    records = run.evaluate(small, find_models(small))
    assert (
        "Left out: evaluate.tokens is [8], but the numbers that can be requested of argenseg" in capsys.readouterr().err
    )
    assert {(r.method, r.tokens) for r in records if r.kind == "score" and r.tokens} == {("himtok", 8)}
    small.models = {"argenseg": "argenseg"}
    with pytest.raises(UserError, match="of argenseg are 1, 5, 14, 30; correct it"):
        run.evaluate(small, find_models(small))
    small.evaluate.protocols = ["official"]
    with pytest.raises(UserError, match="Official answers have all mask tokens"):
        run.evaluate(small, find_models(small))


# ---- prompts ----------------------------------------------------------------------------------------------------


def shown() -> Example:
    mask = np.zeros((20, 30), bool)
    mask[4:13, 5:20] = True
    mask[13, 19] = True
    return Example("image", ("it",), mask, (5.0, 4.0, 20.0, 14.0))


def test_prompts_are_of_the_ground_truth():
    box, points, mask = (
        protocol_of(name, "segment", "himtok").prompt_request("image", shown(), 4)
        for name in ("box_prompt", "point_prompt", "mask_prompt")
    )
    assert (box.box, box.want, box.tokens, box.expressions) == ((5.0, 4.0, 20.0, 14.0), ("mask",), 4, ())
    assert points.points == ((9.5, 8.5),)  # in the middle row, as far from the left edge as from the upper one
    assert np.array_equal(mask.mask, shown().mask) and mask.want == ("box",)
    with pytest.raises(UserError, match="no mask that a prompt could be taken from"):
        protocol_of("box_prompt", "segment", "himtok").prompt_request("image", Example("image", ("it",)))


@pytest.mark.parametrize(("name", "what"), [("box_prompt", "no box"), ("point_prompt", "no points"),
                                            ("mask_prompt", "no mask")])  # fmt: skip
def test_a_method_without_prompts_says_so(name, what):
    with pytest.raises(UserError, match=f"Protocol {name}: argenseg takes {what} in place of words"):
        protocol_of(name, "segment", "argenseg")
    assert not asks(name, "segment", "argenseg", ("mask",))
    assert not asks(name, "segment", "baseline:full")


def test_prompts_are_asked_of_each_object_once(himtok):
    himtok.evaluate.protocols, himtok.evaluate.limit = ["box_prompt", "point_prompt", "mask_prompt"], 0
    records = run.evaluate(himtok, find_models(himtok))
    for protocol in himtok.evaluate.protocols:
        mine = [r for r in records if r.protocol == protocol]
        assert {r.method for r in mine} == {"himtok"}
        assert {r.n for r in mine if r.metric != "small_ciou"} == {12}  # three squares on each of four images
        path = run.predictions_dir(himtok) / f"himtok.val.{protocol}.jsonl"
        masks = [rle.decode(row["mask"]).any() for row in rows(path)]
        assert any(masks) == (protocol != "mask_prompt")
    boxes = {r.metric for r in records if r.protocol == "mask_prompt"}
    assert boxes == {"acc@0.5", "acc@0.7", "acc@0.75", "acc@0.9"}
    assert "giou" in {r.metric for r in records if r.protocol == "box_prompt"}
