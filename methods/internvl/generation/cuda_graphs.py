"""Steps of a mask block recorded once as CUDA graphs and replayed: the fast path without a launch for each kernel.

A graph replays the same kernels with the same shapes on the same addresses. So the keys and values of a batch stay
where they are from one request to the next; a step attends to them up to the next multiple of SPARE, with a mask over
those that do not exist yet, and writes its own at a place that is read on the device. On a CPU the same passes run
unrecorded: slower than the fast path, and there to be compared with it.

The prompt, the text behind a block, the schedule's own choice and whatever has rows of unequal length (left padding,
rows that pause, a prefix shared by several prompts) take the fast path's passes, and so does all after a recording that
failed; a warning says which. HiMTok needs one graph for each SPARE keys, ARGenSeg one for each scale; each is recorded
by the first request that needs it, so the first requests of a shape are slow. The graphs and keys that were used last
are kept, up to a bound.

Shapes: B rows, n tokens of a step, D width, V vocabulary rows, C capacity, G key heads, d head width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.internvl.backbone import Backbone
from methods.internvl.generation.decoder import Decoder
from methods.internvl.generation.kv_cache import Stepper, room, whole

WARMUPS = 3  # passes before a recording, in which libraries choose their kernels and workspaces
BLOCK = 768  # keys that are allocated for what follows a prompt: ARGenSeg's 680 and some words
MOST_RECORDINGS, MOST_STEPPERS = 32, 8  # graphs over the same keys, and keys of a model, that are kept

T = TypeVar("T")


class GraphDecoder(Decoder):
    def _stepper(self, embeddings: Tensor) -> Stepper:
        if self.holes:
            return super()._stepper(embeddings)
        return kept_stepper(self.backbone, embeddings)

    def logits(self, inputs: Tensor, active: Tensor | None, bidirectional: bool, rows: tuple[int, int]) -> Tensor:
        """As Decoder's; `hidden` stays that of the pass before, because a block always ends with its tail."""
        why = (self.holes and "rows are of unequal length") or (active is not None and "rows pause")
        why = why or (not isinstance(self.stepper, FixedStepper) and "a beginning is shared")
        if why:
            tell(f"These steps are not recorded as CUDA graphs: {why}.")
            return super().logits(inputs, active, bidirectional, rows)
        self._count(inputs.shape[1], self.mask.new_ones(len(inputs)))
        return self.stepper.logits(inputs, bidirectional, rows, lambda hidden: self.head(hidden, *rows))


class FixedStepper(Stepper):
    """Keys and values that stay at their addresses over many requests, and the graphs recorded over them."""

    def __init__(self, language_model: nn.Module):
        super().__init__(language_model)
        self.places: Tensor | None = None  # int64 [n], where a pass of fixed shapes writes its keys
        self.filled: Tensor | None = None  # int64 [], the number of keys, on the device
        self.reach = 0  # how many keys such a pass attends to
        self.recordings = Latest[Recording](MOST_RECORDINGS)
        self.fails = False  # whether a recording could not be made

    def run(self, x: Tensor, positions: Tensor, seen: Tensor | None, causal: bool = False) -> Tensor:
        self._reserve(self.length + x.shape[1])
        return super().run(x, positions, seen, causal)

    def logits(
        self, inputs: Tensor, bidirectional: bool, rows: tuple[int, int], head: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Feed [B, n, D] to all rows -> head's logits [B, n, V] for vocabulary rows [low, high)."""
        count, keys = inputs.shape[1], whole(self.length + inputs.shape[1])
        self._reserve(self.length + count)
        self.filled = torch.zeros((), dtype=torch.long, device=inputs.device) if self.filled is None else self.filled
        self.filled.fill_(self.length)
        recording = self._recording((count, bidirectional, rows, keys), inputs, head)
        found = recording(inputs) if recording else self._pass(inputs, bidirectional, keys, head)
        self.length += count
        return found

    def _recording(
        self, key: tuple[int, bool, tuple[int, int], int], inputs: Tensor, head: Callable[[Tensor], Tensor]
    ) -> Recording | None:
        """The graph of a step: (tokens, whether they see each other, vocabulary rows, keys). None where there is none,
        which is said."""
        if self.fails or not recordable(inputs.device):
            return None
        try:
            return self.recordings.get(key, lambda: Recording(lambda x: self._pass(x, key[1], key[3], head), inputs))
        except RuntimeError as error:
            self.fails = True
            tell(f"Steps run without CUDA graphs, because one could not be recorded: {error}")
            return None

    def _pass(self, x: Tensor, bidirectional: bool, keys: int, head: Callable[[Tensor], Tensor]) -> Tensor:
        """One step over the first `keys` keys, whose shapes and addresses do not depend on how many of them exist."""
        before = self.length
        self.places = self.filled + torch.arange(x.shape[1], device=x.device)
        last = self.places[-1].expand_as(self.places) if bidirectional else self.places
        seen = torch.arange(keys, device=x.device) <= last[:, None]
        self.reach = keys
        try:
            return head(super().run(x, self.places.expand(len(x), -1), seen[None, None]))
        finally:
            self.length, self.places = before, None

    def _remember(self, store: list[Tensor], number: int, fresh: Tensor) -> Tensor:
        """Write [B, G, n, d] at `places` -> the first `reach` keys [B, G, m, d]."""
        if self.places is None:
            return super()._remember(store, number, fresh)
        return store[number].index_copy_(2, self.places, fresh)[:, :, : self.reach]

    def _allocate(self, fresh: Tensor, capacity: int) -> Tensor:
        """Zeros: what a mask hides is multiplied by 0, and must be a number. With room for a block of mask tokens, so
        that keys seldom move."""
        return torch.zeros(*fresh.shape[:2], capacity + BLOCK, fresh.shape[3], dtype=fresh.dtype, device=fresh.device)

    def _reserve(self, keys: int) -> None:
        """Enlarge all keys and values for at least so many; they move, so the recordings are worth nothing then."""
        if self.keys and self.keys[0].shape[2] < keys:
            more = room(keys) - self.keys[0].shape[2]
            for store in (self.keys, self.values):
                store[:] = [F.pad(each, (0, 0, 0, more)) for each in store]
            self.recordings.clear()


class Recording:
    """A piece of work on inputs of one shape, as a CUDA graph. Calling it copies the inputs in and the output out."""

    def __init__(self, work: Callable[[Tensor], Tensor], inputs: Tensor):
        self.inputs = inputs.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with _uncached_autocast(inputs.device), torch.cuda.stream(side):
            for _ in range(WARMUPS):
                work(self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with _uncached_autocast(inputs.device), torch.cuda.graph(self.graph):
            self.output = work(self.inputs)

    def __call__(self, inputs: Tensor) -> Tensor:
        self.inputs.copy_(inputs)
        self.graph.replay()
        return self.output.clone()  # the next replay overwrites it


def recordable(device: torch.device) -> bool:
    return device.type == "cuda"


def _uncached_autocast(device: torch.device) -> AbstractContextManager:
    """The precision in force, without autocast's cache: a graph must not read a weight's copy that is freed later."""
    enabled, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
    return torch.autocast(device.type, dtype, enabled=enabled, cache_enabled=False)


class Latest(dict[Hashable, T]):
    """What was used last, up to `most` of it."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        found = self.pop(key) if key in self else make()
        self[key] = found
        while len(self) > self.most:
            del self[next(iter(self))]
        return found


def tell(text: str) -> None:
    """Once for each text."""
    warnings.warn(text, stacklevel=3)


_KEPT: WeakKeyDictionary[Backbone, Latest[FixedStepper]] = WeakKeyDictionary()


def kept_stepper(backbone: Backbone, embeddings: Tensor) -> FixedStepper:
    """The backbone's stepper for prompts like [B, L, D]: one for each B and each 256 of L, so that what a request costs
    does not depend on the longest one before. The latest are kept, and none when the weights are others than before."""
    device, weights = embeddings.device.type, list(backbone.language_model.parameters())
    low = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    kept = _KEPT.setdefault(backbone, Latest(MOST_STEPPERS))
    places = hash(tuple(weight.data_ptr() for weight in weights))
    key = places, weights[-1].dtype, embeddings.dtype, low
    if any(other[:4] != key for other in kept):
        kept.clear()
    shape = len(embeddings), room(embeddings.shape[1])
    stepper = kept.get((*key, *shape), lambda: FixedStepper(backbone.language_model))
    stepper.length = 0
    return stepper
