"""The fake device computes what a CPU does, and refuses the faults that are planted here."""

import numpy as np
import pytest
import torch

from methods.internvl.generation import cuda_graphs
from tests.fake_cuda import AVAILABLE, FakeCuda, HostRead, MixedDevices, StepChanged, move

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs a C++ compiler, or a GPU")


@pytest.fixture
def device():
    with FakeCuda(values=True).on() as mode:
        yield mode


def test_a_moved_module_computes_on_the_device_what_it_computes_on_a_cpu():
    torch.manual_seed(0)
    module, x = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8)), torch.randn(3, 4)
    wanted = module(x).detach().numpy()
    with FakeCuda(values=True).on() as mode:
        found = move(module)(x.to("cuda"))
        assert found.device.type == "cuda" and found.dtype == torch.float32
        found.sum().backward()
        assert module[0].weight.grad.device.type == "cuda"
        np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-6)
        assert len(mode.reads) == 1


def test_autocast_is_that_of_the_device(device):
    layer = move(torch.nn.Linear(4, 4))
    with torch.autocast("cuda", torch.bfloat16):
        y = layer(torch.ones(2, 4, device="cuda"))
        assert y.dtype == torch.bfloat16
        assert torch.nn.functional.layer_norm(y, (4,)).dtype == torch.float32  # unlike a CPU's


def test_shapes_that_depend_on_values(device):
    x = torch.tensor([3, 0, 5, 0], device="cuda")
    assert x.nonzero().flatten().tolist() == [0, 2]
    assert x[x > 0].tolist() == [3, 5]
    x[x == 0] = 7
    assert x.unique().tolist() == [3, 5, 7]


def test_what_depends_on_weights_counts_as_zero():
    with FakeCuda().on():
        big = torch.randn(300, 300, device="cuda")
        assert big.argmax(-1).tolist() == [0] * 300
        assert float(big.sum()) == 0
        assert torch.arange(4, device="cuda").sum().item() == 6


READS = {
    "item": lambda x: x.sum().item(),
    "truth": lambda x: bool(x.any()),
    "tolist": lambda x: x.tolist(),
    "nonzero": lambda x: x.nonzero(),
    "a boolean index": lambda x: x[x > 0],
    "to the host": lambda x: x.cpu(),
    "from the host": lambda x: torch.ones(3).to("cuda"),
    "a constant": lambda x: torch.tensor([1, 2], device="cuda"),
}


@pytest.mark.parametrize("name", READS)
def test_the_host_must_not_wait_in_a_step(device, name):
    x = torch.arange(3, device="cuda")
    READS[name](x)  # elsewhere it may
    with device.stage("step 01"), pytest.raises(HostRead):
        READS[name](x)


@pytest.mark.parametrize("other", [torch.ones(3), torch.ones(1, 3)], ids=["vector", "row"])
def test_operands_on_two_devices(device, other):
    with pytest.raises(MixedDevices):
        torch.ones(3, device="cuda") + other


def test_an_index_on_the_cpu(device):
    """The real device takes it, with a copy and a wait."""
    with pytest.raises(MixedDevices):
        torch.ones(3, device="cuda")[torch.tensor([0, 1])]


def test_a_scalar_on_the_cpu_only_outside_a_capture(device):
    """A recording would keep its value."""
    x = torch.ones(3, device="cuda")
    x + torch.tensor(1.0)
    with device.capture(), pytest.raises(MixedDevices):
        x + torch.tensor(1.0)


def test_a_step_that_is_the_same_each_time_can_be_replayed(device):
    store, x = torch.zeros(8, device="cuda"), torch.ones(2, device="cuda")
    recording = cuda_graphs.Recording(lambda inputs: store[:2].add_(inputs) * torch.ones(2, device="cuda"), x)
    assert recording(x).shape == recording(x).shape


class Counted:
    """A number that the host changes between two steps."""

    number = 1


PLANTED = {
    "allocation of another size": lambda x, c: torch.zeros(c.number, device="cuda").sum() + x,
    "place that the host knows": lambda x, c: x[c.number :].sum() + x,
    "number that the host knows": lambda x, c: x * c.number,
    "operation more": lambda x, c: sum([x] * c.number) + x,
    "memory that is given back": lambda x, c: x + c.kept,
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_step_that_a_replay_would_not_repeat(device, fault):
    host, x = Counted(), torch.ones(4, device="cuda")
    host.kept = torch.ones(4, device="cuda")
    recording = cuda_graphs.Recording(lambda inputs: PLANTED[fault](inputs, host), x)
    recording(x)
    host.number, host.kept = 2, torch.ones(4, device="cuda")
    with pytest.raises(StepChanged):
        recording(x)
