"""The optimiser side of a step: rates, weights, clipping, and a state that comes back whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bench.config import StageConfig
from bench.runtime import resolve_precision
from bench.train.batches import MicroBatch
from bench.train.engine import LocalEngine, matrices, rate
from methods.base import UserError

CPU = torch.device("cpu")


def stage(**changes) -> StageConfig:
    return StageConfig(**{"method": "m", "stage": "s", "steps": 100, "lr": 0.1, "warmup": 10, "decay_ratio": 0.2,
                          "min_lr_ratio": 0.1} | changes)  # fmt: skip


def test_the_rate_rises_stays_and_falls():
    found = [rate(step, stage()) for step in range(100)]
    assert found[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert found[10:81] == pytest.approx([1] * 71)
    assert found[90] == pytest.approx(0.5)
    assert found[99] == pytest.approx(0.1)  # the floor


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(0, 50), st.floats(0, 1), st.floats(0, 1), st.integers(0, 299))
def test_the_rate_is_a_share(steps, warmup, decay, floor, step):
    assert 0 <= rate(step % steps, stage(steps=steps, warmup=warmup, decay_ratio=decay, min_lr_ratio=floor)) <= 1


def test_without_warm_up_and_decay_the_rate_is_flat():
    assert {rate(step, stage(warmup=0, decay_ratio=0.0)) for step in range(100)} == {1}


class Toy(nn.Module):
    """Pulls a matrix and a vector to targets of a batch; a frozen parameter stays where it is."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(3, 4))
        self.vector = nn.Parameter(torch.randn(4))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.seen = None

    def loss(self, batch):
        self.count += 1
        self.seen = self.matrix @ self.vector
        return {
            "a": ((self.matrix - batch["x"]) ** 2).sum(),
            "b": ((self.vector - 1) ** 2).sum(),
            "_watched": self.vector.sum().detach(),
        }


def batch(value: float = 0.0) -> list[MicroBatch]:
    """A step of one micro-batch."""
    return [MicroBatch({"x": torch.full((3, 4), value), "name": "not a tensor"}, 0, ["toy:1"], 5)]


def engine(module=None, **changes) -> LocalEngine:
    return LocalEngine(module or Toy(), stage(**changes), torch.float32, CPU)


def test_values_are_the_weighted_sum_and_its_parts():
    toy = engine(weights={"a": 0.5})
    values = toy.step(0, batch())
    assert values["loss"] == pytest.approx(0.5 * values["a"] + values["b"], rel=1e-6)
    assert {"_watched", "_gradient"} <= values.keys()


def test_watched_values_do_not_train():
    class Watching(Toy):
        def loss(self, batch):
            return super().loss(batch) | {"_watched": 1e6 * self.vector.sum()}

    plain, watching = engine(), engine(Watching())
    for step in range(3):
        plain.step(step, batch())
        watching.step(step, batch())
    assert torch.equal(plain.module.vector, watching.module.vector)


def test_training_moves_what_may_move():
    toy = engine(weight_decay=0.0)
    first = toy.step(0, batch())["loss"]
    for step in range(1, 100):
        last = toy.step(step, batch())["loss"]
    assert last < 0.05 * first
    assert toy.module.frozen.tolist() == [1, 1]
    assert "frozen" not in toy.parameters


class Still(Toy):
    """A loss without a slope: whatever moves is moved by the decay."""

    def loss(self, batch):
        return {"nothing": 0 * sum(parameter.sum() for parameter in (self.matrix, self.vector))}


def test_only_matrices_are_decayed_and_at_the_rate_of_the_step():
    still = engine(Still())
    matrix, vector = still.module.matrix.clone(), still.module.vector.clone()
    still.step(0, batch())
    torch.testing.assert_close(still.module.matrix, matrix * (1 - 0.1 * rate(0, stage()) * 0.05))
    assert torch.equal(still.module.vector, vector)


def test_gradients_are_clipped():
    """The first update of AdamW is the sign; after a jump of scale the second differs by the clipped share."""
    big, small = engine(clip=1e9), engine(clip=1e-3)
    assert big.step(0, batch(1e3))["_gradient"] == small.step(0, batch(1e3))["_gradient"] > 1000
    for step in (1, 2):
        big.step(step, batch())
        small.step(step, batch())
    assert not torch.allclose(big.module.matrix, small.module.matrix)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_before_the_update(value):
    toy = engine()
    before = toy.module.matrix.clone()
    with pytest.raises(FloatingPointError, match="the loss is"):
        toy.step(0, batch(value))
    assert torch.equal(toy.module.matrix, before)


def test_the_state_comes_back_bit_by_bit_and_training_goes_on_alike():
    through, other = engine(), engine()
    for step in range(5):
        through.step(step, batch())
    state = through.state().tensors
    assert "module/count" in state
    assert "optimizer/matrix/exp_avg" in state
    for step in range(5, 9):
        through.step(step, batch())
    other.load_state(state)
    for step in range(5, 9):
        other.step(step, batch())
    for name, tensor in through.module.state_dict().items():
        assert torch.equal(tensor, other.module.state_dict()[name]), name
    after, again = through.state().tensors, other.state().tensors
    assert after.keys() == again.keys()
    assert all(torch.equal(after[name], again[name]) for name in after)


def test_a_state_is_a_copy():
    toy = engine()
    toy.step(0, batch())
    state = toy.state().tensors
    kept = {name: tensor.clone() for name, tensor in state.items()}
    toy.step(1, batch())
    assert all(torch.equal(state[name], kept[name]) for name in state)


class Net(nn.Module):
    """A small network with every kind of parameter that a model has."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(5, 8)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.conv = nn.Conv2d(1, 1, 3)
        self.block = nn.ModuleDict({"up": nn.Linear(8, 16), "down": nn.Linear(16, 8)})
        self.lm_head = nn.Linear(8, 5, bias=False)

    def loss(self, batch):
        x = self.embed(torch.arange(5))[None]
        x = x + self.attn(x, x, x)[0]
        x = self.block["down"](self.block["up"](x).relu())
        return {"a": nn.functional.cross_entropy(self.lm_head(x)[0], torch.tensor([1, 2, 3, 4, 0]))}


def test_matrices_are_those_of_linear_layers_without_the_head():
    assert matrices(Net()) == {"attn.in_proj_weight", "attn.out_proj.weight", "block.up.weight", "block.down.weight"}


def test_muon_moves_matrices_alone_and_by_orthogonal_steps():
    muon, adam = (
        LocalEngine(Net(), stage(muon_lr=rate, weight_decay=0.0, warmup=1), torch.float32, CPU) for rate in (0.1, 0.0)
    )
    before = {name: p.detach().clone() for name, p in muon.module.named_parameters()}
    for toy in (muon, adam):
        toy.step(0, batch())
    after, other = dict(muon.module.named_parameters()), dict(adam.module.named_parameters())
    for name in before:
        assert torch.equal(after[name], other[name]) == (name not in matrices(Net())), name
    directions = []
    for moved in (after, other):
        values = torch.linalg.svdvals((moved["block.down.weight"] - before["block.down.weight"]).detach())
        directions.append(float(values.sum() / values.max()))
    assert directions[0] > 1.1 * directions[1]  # AdamW's first step is the gradient's sign, of few directions


def test_muon_learns_and_goes_on_alike_after_a_stop():
    through, other = (LocalEngine(Net(), stage(muon_lr=0.02, lr=0.02), torch.float32, CPU) for _ in range(2))
    first = through.step(0, batch())["loss"]
    for step in range(1, 30):
        through.step(step, batch())
    other.load_state(through.state().tensors)
    last = [toy.step(30, batch())["loss"] for toy in (through, other)]
    assert last[0] == last[1] < 0.5 * first
    states = [toy.state().tensors.values() for toy in (through, other)]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_a_state_before_the_first_step_has_no_optimiser():
    state = engine().state().tensors
    assert not any(name.startswith("optimizer/") for name in state)
    engine().load_state(state)


def test_a_state_of_another_module_is_refused():
    with pytest.raises(RuntimeError, match="vector"):
        engine().load_state({"module/matrix": torch.zeros(3, 4)})


def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
    toy = LocalEngine(Toy(), stage(), torch.bfloat16, CPU)
    toy.step(0, batch())
    assert toy.module.seen.dtype == torch.bfloat16
    assert toy.module.matrix.dtype == torch.float32


def test_precisions_by_name():
    assert resolve_precision("float32", CPU) == torch.float32
    assert resolve_precision("bfloat16", CPU) == torch.bfloat16
    assert resolve_precision("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_precision("auto", CPU) in (torch.float32, torch.bfloat16)
    with pytest.raises(UserError, match="'float8'"):
        resolve_precision("float8", CPU)
