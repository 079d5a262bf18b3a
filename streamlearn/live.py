"""What is looked up when somebody asks, on the asker's thread: at no cost where nobody does.

The learner's thread goes on meanwhile. What is read here of its state is read as it is at the moment, and
nothing is changed: no figure of an example that is being replaced can be wrong by more than that example.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from streamlearn.buffers import Memory
from streamlearn.learner import OnlineLearner
from streamlearn.observe import OTHER, DeviceFigures, MemoryFigures


def memory_figures(learner: OnlineLearner, most: int) -> MemoryFigures | None:
    """most: classes with a share of their own. None before the shape of x is settled."""
    memory: Memory | None = getattr(learner, "memory", None)  # it may be being built at the moment
    if memory is None:
        return None
    seen, size = memory.seen, memory.size
    columns = (memory.labels, memory.key, memory.born, memory.priority)
    room = memory.x.nbytes + sum(column.nbytes for column in columns)
    if not size:
        return MemoryFigures(room, 0, {}, {})
    # Copies: the learner may write to the columns while they are looked at.
    labels, born = memory.labels[:size].copy(), memory.born[:size].copy()
    counts, age = np.bincount(labels), np.maximum(seen - born, 0)
    return MemoryFigures(
        room,
        int(np.count_nonzero(counts)),
        _shares(counts / size, learner.classes.labels, most),
        {"mean": float(age.mean()), "median": float(np.median(age)), "oldest": float(age.max())},
    )


def _shares(shares: np.ndarray[Any, Any], labels: Sequence[str], most: int) -> dict[str, float]:
    """By label; a class that is itself called OTHER is counted there, as for the recall of a class."""
    found: dict[str, float] = {}
    for label, share in zip(labels[:most], shares[:most].tolist(), strict=False):
        found[label] = found.get(label, 0.0) + share
    if len(shares) > most:
        found[OTHER] = found.get(OTHER, 0.0) + float(shares[most:].sum())
    return found


def device_figures(device: torch.device) -> DeviceFigures | None:
    """None where there is no accelerator: the process' own memory is among the metrics anyhow."""
    if device.type != "cuda":
        return None
    try:
        free, total = torch.cuda.mem_get_info(device)
        memory = {
            "allocated": torch.cuda.memory_allocated(device),
            "reserved": torch.cuda.memory_reserved(device),
            "free": free,
            "total": total,
        }
        return DeviceFigures(memory, _utilization(str(torch.cuda.get_device_properties(device).uuid)))
    except RuntimeError:  # a device that has failed: the other figures are wanted all the more
        return None


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


@cache
def _nvml() -> ctypes.CDLL | None:
    """NVIDIA's management library, which comes with the driver; None where it can't be had."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


def _utilization(uuid: str) -> float | None:
    """uuid: of the device, which tells it apart whatever CUDA_VISIBLE_DEVICES says."""
    library, handle, found = _nvml(), ctypes.c_void_p(), _Utilization()
    if library is None:
        return None
    name = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
    if library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle)):
        return None
    if library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(found)):
        return None  # a slice of a device (MIG) has none
    return int(found.gpu) / 100
