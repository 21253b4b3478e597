"""The token cache: the same ids, each mask encoded once, and never another mask tokenizer's."""

import numpy as np
import pytest
import torch

from methods.argenseg.mask_tokenizer import VQVAE, MaskTokenizerConfig
from methods.argenseg.model import ARGenSeg
from methods.argenseg.token_cache import TokenCache
from methods.base import UserError


@pytest.fixture
def tokenizer() -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(MaskTokenizerConfig(resolution=8, width=32, multipliers=(1, 1), blocks=1, codes=16, scales=(1, 2, 4)))


@pytest.fixture
def masks() -> torch.Tensor:
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()


def counted(tokenizer, monkeypatch) -> list[int]:
    """How many masks each call of the mask tokenizer encodes."""
    calls, encode = [], tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda masks: (calls.append(len(masks)), encode(masks))[1])
    return calls


def test_cached_ids_are_the_mask_tokenizers(tokenizer, masks, tmp_path, monkeypatch):
    expected = tokenizer.encode(masks)
    calls = counted(tokenizer, monkeypatch)
    cache = TokenCache(tmp_path, tokenizer)
    found = [cache.encode(masks[rows]) for rows in ([0, 1, 1], [2, 0], [0, 1, 2, 3, 4], [4, 3])]
    assert calls == [2, 1, 2]
    for ids, rows in zip(found, ([0, 1, 1], [2, 0], [0, 1, 2, 3, 4], [4, 3]), strict=True):
        assert ids.dtype == torch.int64
        assert torch.equal(ids, expected[rows])


def test_a_second_process_reads_what_the_first_wrote(tokenizer, masks, tmp_path, monkeypatch):
    first, second = TokenCache(tmp_path, tokenizer), TokenCache(tmp_path, tokenizer)
    expected = first.encode(masks[:3])
    second.encode(masks[3:])
    calls = counted(tokenizer, monkeypatch)
    third = TokenCache(tmp_path, tokenizer)
    assert torch.equal(third.encode(masks[:3]), expected)
    assert (calls, len(third.known)) == ([], 5)
    size = 16 + 21 * 2
    assert sorted(path.stat().st_size for path in tmp_path.iterdir()) == [2 * size, 3 * size]


def test_a_torn_record_is_left_out(tokenizer, masks, tmp_path):
    cache = TokenCache(tmp_path, tokenizer)
    cache.encode(masks)
    cache.path.write_bytes(cache.path.read_bytes()[:-1])
    again = TokenCache(tmp_path, tokenizer)
    assert len(again.known) == 4
    assert torch.equal(again.encode(masks), tokenizer.encode(masks))


def test_another_mask_tokenizer_has_its_own(tokenizer, masks, tmp_path):
    TokenCache(tmp_path, tokenizer).encode(masks)
    with torch.no_grad():
        tokenizer.decoder.conv_out.weight.add_(1)  # which encodes as before
    assert len(TokenCache(tmp_path, tokenizer).known) == 5
    with torch.no_grad():
        tokenizer.quant_conv.weight.add_(1)
    other = TokenCache(tmp_path, tokenizer)
    assert other.known == {}
    assert torch.equal(other.encode(masks), tokenizer.encode(masks))


def test_a_folder_that_is_a_file_is_one_sentence(tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot hold cached tokens"):
        TokenCache(tmp_path / "file", tokenizer)


def test_training_through_a_cache_is_the_same(build, examples, tmp_path):
    plain = build("argenseg", mask_tokenizer_config="short")
    cached = build("argenseg", mask_tokenizer_config="short")
    cached.cache = TokenCache(tmp_path, cached.mask_tokenizer)
    losses = []
    for method in (plain, cached, cached):
        samples = [method.processor.prepare(e, "segment", np.random.default_rng(0)) for e in examples[:3]]
        losses.append(method.loss(method.processor.collate(samples)))
    assert losses[0] == losses[1] == losses[2]
    assert len(cached.cache.known) == 3


def test_a_stage_names_the_folder(backbone_folder, tmp_path):
    tokenizer = {"resolution": 8, "width": 32, "multipliers": [1, 1], "blocks": 1, "codes": 16, "scales": [1, 2, 4]}
    parts = {
        "backbone": str(backbone_folder),
        "mask_tokenizer_config": tokenizer,
        "token_cache": str(tmp_path / "tokens"),
    }
    assert ARGenSeg.build(parts, tuple).cache.path.parent == tmp_path / "tokens"
