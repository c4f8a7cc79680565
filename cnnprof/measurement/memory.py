"""The allocator's level of one call: the largest sum of live tensor bytes, from the allocator's own events."""

from collections.abc import Iterable
from itertools import accumulate

import torch

from cnnprof.inputs import components, torch_name
from cnnprof.records import Memory
from cnnprof.steps import Step


def standing_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Sum the storages of tensors, each storage once."""
    return sum(storage_bytes(tensors).values())


def storage_bytes(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    """Return the bytes of each storage, by its identity; nothing for tensors that do not show theirs."""
    storages = (part.untyped_storage() for tensor in tensors for part in _shown(tensor))
    return {storage._cdata: storage.nbytes() for storage in storages}


def not_shown(tensors: Iterable[torch.Tensor]) -> tuple[str, ...]:
    """Name the layouts of tensors whose storages cannot be summed."""
    layouts = (torch_name(tensor.layout) for tensor in tensors if not _shown(tensor))
    return tuple(dict.fromkeys(layouts))


def _shown(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    try:
        return components(tensor)
    except NotImplementedError:
        return ()


def peak(before_bytes: int, events: Iterable[int]) -> Memory:
    """Follow allocations (positive bytes) and releases (negative) from what stood before them."""
    return Memory(peak_bytes=before_bytes + max(accumulate(events, initial=0)), before_bytes=before_bytes)


def cuda_peak(step: Step, device: str) -> Memory:
    """Ask the CUDA allocator for the peak of one call; other tensors of the process on that device are taken off."""
    step.run()  # lazy initialisation, and the labels of the loss
    step.release()
    before = standing_bytes(step.standing())
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    others = torch.cuda.memory_allocated(device) - before
    step.run()
    torch.cuda.synchronize(device)
    return Memory(peak_bytes=torch.cuda.max_memory_allocated(device) - others, before_bytes=before)
