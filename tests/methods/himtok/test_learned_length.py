"""A learned length: which prefix is enough, what a cut sample looks like, and that it trains and answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods.base import UserError
from methods.himtok.adaptive_length import end_token_against_fixed
from methods.himtok.config import AdaptiveLength, LearnedLength
from methods.himtok.learned_length import cut_blocks, shortest_prefixes
from methods.internvl.chat import IGNORED


class Growing:
    """A tokenizer whose first n tokens decode to the first rows of a full mask, a row each."""

    prefixes = (1, 2, 4, 8)

    def decode(self, ids):
        rows = torch.arange(8)[None, :, None] < ids.shape[1]
        return rows.expand(len(ids), 8, 8).float()


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, 8), (0.4, 8), (0.5, 4), (0.9, 1)])
def test_the_shortest_prefix_within_the_threshold(threshold, expected):
    masks = torch.ones(2, 1, 8, 8)
    assert shortest_prefixes(Growing(), torch.zeros(2, 8), masks, threshold).tolist() == [expected] * 2


def test_blocks_are_cut_and_rows_close_up():
    start, end, code = 1, 2, 3
    ids = torch.tensor([[9, start, code, code, code, end, 8, 0], [start, code, code, code, end, 7, 6, 5]])
    labels = torch.where(ids == 0, IGNORED, ids)
    cut, learned = cut_blocks(ids, labels, start, end, torch.tensor([1, 3]))
    assert cut.tolist() == [[9, 1, 3, 2, 8, 0, 0, 0], [1, 3, 3, 3, 2, 7, 6, 5]]
    assert learned.tolist() == [[9, 1, 3, 2, 8] + [IGNORED] * 3, [1, 3, 3, 3, 2, 7, 6, 5]]
    cut, _ = cut_blocks(ids, labels, start, end, torch.tensor([1, 1]))
    assert cut.tolist() == [[9, 1, 3, 2, 8, 0], [1, 3, 2, 7, 6, 5]]


def batch_of(method, examples, task="segment"):
    return method.collate([method.prepare(e, task, np.random.default_rng(i)) for i, e in enumerate(examples)])


def test_a_cut_answer_teaches_its_first_codes_and_the_end(himtok, examples):
    himtok.learned_length = LearnedLength(1.0, threshold=1.0)  # one token is enough
    batch = batch_of(himtok, examples[:3])
    before = batch["ids"].shape[1]
    blocks = himtok._fill(batch)
    assert blocks.counts.tolist() == [1, 1, 1] and batch["ids"].shape[1] < before
    codes = himtok.mask_tokenizer.encode(batch["masks"])
    for row in range(3):
        start = batch["ids"][row].tolist().index(himtok.processor.start_id)
        assert batch["labels"][row, start + 1 : start + 3].tolist() == [
            himtok.processor.mask_token_offset + int(codes[row, 0]),
            himtok.processor.end_id,
        ]


@pytest.mark.parametrize("stage", ["align", "tune"])
def test_cut_samples_train(himtok, examples, stage):
    himtok.enter_stage(stage)
    himtok.learned_length = LearnedLength(0.5, threshold=1.0)
    himtok.token_loss_weighting = "octaves"
    torch.manual_seed(0)
    losses = himtok.loss(batch_of(himtok, examples, "segment_box"))
    total = sum(loss for name, loss in losses.items() if not name.startswith("_"))
    total.backward()
    assert torch.isfinite(total)


def test_packed_samples_are_refused(himtok, examples):
    himtok.learned_length = LearnedLength(1.0)
    samples = [himtok.prepare(e, "segment", np.random.default_rng(0)) for e in examples[:2]]
    with pytest.raises(UserError, match="set pack to false"):
        himtok._fill(himtok.collate(samples, pack=True))


def test_the_written_length_against_fixed_ones_at_its_cost(himtok, writing, examples):
    writing(himtok)
    own = himtok.length = AdaptiveLength("early_exit")
    written, fixed = end_token_against_fixed(himtok, examples[:2])
    assert himtok.length == own and len(written.iou) == len(fixed.iou) == 2
    assert fixed.tokens.mean() == pytest.approx(written.tokens.mean())
    np.testing.assert_allclose(written.lost, fixed.iou - written.iou)


@pytest.mark.parametrize("wrong", [{"share": 2.0}, {"threshold": -0.1}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(UserError, match="give numbers of 0 to 1"):
        LearnedLength(**wrong)


def test_parts_set_the_rule_that_travels_with_the_model(build, tmp_path):
    method = build("himtok", learned_length={"share": 0.5}, adaptive_length={"rule": "end_token"})
    assert (method.learned_length.share, method.length.rule) == (0.5, "end_token")
    method.save_pretrained(tmp_path)
    assert type(method).from_pretrained(tmp_path).length.rule == "end_token"
