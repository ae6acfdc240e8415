"""What a SubNet keeps from call to call, and how many bytes that takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from secateur.denoiser.blocks import Blocks
from secateur.denoiser.patch import Patch
from secateur.pipeline.examples import tensors
from secateur.schedule.acts import Act, acts
from secateur.schedule.holds import LINES
from secateur.schedule.schedule import Schedule

Key = tuple[int, int]  # branch, block


class Cache:
    """What was computed and will be read again. `bytes` now and `peak_bytes` ever count each storage once.

    copy_outputs: keep and give copies, for those who write into what they get (T2I-Adapter, FreeU, CUDA graphs).
    """

    def __init__(self, names: Sequence[str], *, copy_outputs: bool = False):
        self.names, self.copy_outputs = (*names, "the denoiser"), copy_outputs
        self.bytes = self.peak_bytes = 0
        self._kept: dict[Key, tuple[Any, tuple[int, ...]]] = {}
        self._holders: Counter[int] = Counter()

    def put(self, key: Key, value: Any) -> None:
        """Keep a value that will be taken."""
        value = copied(value) if self.copy_outputs else value
        if key in self._kept:
            self.drop(key)
        self._kept[key] = value, versions(value)
        for storage, size in storages(value).items():
            self.bytes += 0 if self._holders[storage] else size
            self._holders[storage] += 1
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def get(self, key: Key) -> Any:
        """The value in the cache, or None."""
        return self._kept[key][0] if key in self._kept else None

    def take(self, key: Key, *, last: bool) -> Any:
        """The value in the cache, dropped if this is its last use. Raises RuntimeError if somebody has written into it."""
        value, version = self._kept[key]
        if versions(value) != version:
            raise RuntimeError(
                f"the output of {self.names[key[1]]} was changed in place by its reader, as T2I-Adapter and FreeU do: apply "
                "the schedule with copy_outputs=True"
            )
        if last:
            self.drop(key)
        return copied(value) if self.copy_outputs and not last else value

    def drop(self, key: Key) -> None:
        """Forget one value."""
        value, _ = self._kept.pop(key)
        for storage, size in storages(value).items():
            self._holders[storage] -= 1
            self.bytes -= 0 if self._holders[storage] else size

    def clear(self, branch: int | None = None) -> None:
        """Forget everything, or all of one branch; the peak stays."""
        for key in [k for k in self._kept if branch in (None, k[0])]:
            self.drop(key)


def copied(nest: Any) -> Any:
    return tree_map_only(Tensor, torch.clone, nest)


def versions(nest: Any) -> tuple[int, ...]:
    """How often each tensor was written into; inference tensors do not count that."""
    return tuple(x._version for x in tensors(nest) if not x.is_inference())


def storages(nest: Any) -> dict[int, int]:
    """Bytes of every storage in a nest, by identity: two views of one storage are one."""
    each = (x.untyped_storage() for x in tensors(nest))
    return {storage._cdata: storage.nbytes() for storage in each}


def ghost(nest: Any, known: dict[Any, Tensor]) -> Any:
    """A nest of this one's shapes for those who never look: NaN all over, so that a look could not be missed.

    known: those made so far; one of each shape is enough, whoever writes into it.
    """

    def nan(x: Tensor) -> Tensor:
        key = x.shape, x.dtype
        if key not in known:
            known[key] = x.new_full(x.shape, float("nan") if x.is_floating_point() else 0)
        return known[key]

    return tree_map_only(Tensor, nan, nest)


def block_bytes(denoiser: nn.Module, blocks: Blocks, inputs: Mapping[str, Any]) -> tuple[int, ...]:
    """Bytes of what each block gives in one call, and of the denoiser's output last, (L + 1,); a meta denoiser will do."""
    sizes: dict[int, int] = {}

    def call(t, i, run, inputs):
        out = run()
        sizes[i] = sum(storages(out).values())
        return out

    with torch.no_grad(), Patch(denoiser, blocks.names, call):
        out = denoiser(**inputs)
    return (*(sizes[i] for i in range(len(blocks))), sum(storages(out).values()))


def peak_cached_bytes(schedule: Schedule, blocks: Blocks, sizes: Sequence[int]) -> int:
    """Most bytes that one branch of a SubNet keeps at any time. sizes: (L + 1,), see `block_bytes`.

    Keeping every block's output instead takes sum(sizes).
    """
    kinds, bytes_now, peak = (*blocks.reuse, schedule.hold), [0] * len(sizes), 0
    for row in acts(schedule, blocks):
        for i, (act, size, kind) in enumerate(zip(row, sizes, kinds, strict=True)):
            if act is Act.KEEP:
                bytes_now[i] = 2 * size if bytes_now[i] and kind in LINES else size  # the last output, and how it grew
            elif act is Act.LAST:
                bytes_now[i] = 0
            peak = max(peak, sum(bytes_now))
    return peak
