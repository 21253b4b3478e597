"""A CUDA device without a GPU: tensors with shapes, types and devices, and the rules that a real device has."""

from tests.fake_cuda.device import AVAILABLE, FakeCuda, HostRead, MixedDevices, Refused, StepChanged, move

__all__ = ["AVAILABLE", "FakeCuda", "HostRead", "MixedDevices", "Refused", "StepChanged", "move"]
