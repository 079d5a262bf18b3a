"""Arithmetic on what lies on the CPU by numpy, on what lies on a device by torch, written once.

A step on a small net is some hundred small operations, and numpy's share of the time of one is a third of
torch's. So state is kept in tensors, and `host` gives what to reckon with: the very memory of a tensor on
the CPU as a numpy array, a tensor on another device as it is. Operators, slices and methods like `sum` mean
the same for both; the rest is here. Nothing of this leaves a graph for autograd, `unit` of a tensor aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamlearn.events import Array

Numbers = Any
"""A numpy array, or a tensor on another device."""

SHORTEST = 1e-12
"""Rows shorter than this are divided by it: a row of zeros has no direction."""


def host(tensor: Tensor | Array) -> Numbers:
    """The memory of a tensor on the CPU as a numpy array; a tensor on another device as it is."""
    if isinstance(tensor, np.ndarray):
        return tensor
    tensor = tensor.detach()
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def tensor(numbers: Numbers) -> Tensor:
    """The other way round; no copy either."""
    return torch.from_numpy(numbers) if isinstance(numbers, np.ndarray) else numbers


def onto(array: Array, device: torch.device) -> Numbers:
    """What is on the host, on a device."""
    return array if device.type == "cpu" else torch.from_numpy(array).to(device)


def fetched(numbers: Numbers) -> Array:
    """A numpy array in any case."""
    array: Array = numbers if isinstance(numbers, np.ndarray) else numbers.cpu().numpy()
    return array


def index(slots: Array, of: Numbers) -> Numbers:
    """What is on the host, where `of` lies: to be an index into it, for example."""
    return slots if isinstance(of, np.ndarray) else torch.from_numpy(slots).to(of.device)


def relu_(numbers: Numbers) -> Numbers:
    """In place."""
    if isinstance(numbers, np.ndarray):
        return np.maximum(numbers, 0, out=numbers)
    return numbers.relu_()


def exp_(numbers: Numbers) -> Numbers:
    """In place."""
    return np.exp(numbers, out=numbers) if isinstance(numbers, np.ndarray) else numbers.exp_()


def clip_(numbers: Numbers, limit: float) -> Numbers:
    """To -limit … limit, in place."""
    if isinstance(numbers, np.ndarray):
        return np.minimum(np.maximum(numbers, -limit, out=numbers), limit, out=numbers)
    return numbers.clamp_(-limit, limit)


def product_(a: Numbers, b: Numbers, into: Numbers, add: bool) -> None:
    """The product of two matrices written into a third, or added to it."""
    if add:
        into += a @ b
    elif isinstance(into, np.ndarray):
        np.matmul(a, b, out=into)
    else:
        into.copy_(a @ b)


def total_(rows: Numbers, into: Numbers, add: bool) -> None:
    """The sum over all rows [n, d] written into [d], or added to it."""
    if add:
        into += rows.sum(0)
    elif isinstance(into, np.ndarray):
        np.add.reduce(rows, axis=0, out=into)
    else:
        into.copy_(rows.sum(0))


def log_softmax(rows: Numbers) -> Numbers:
    """Of every row [n, classes]."""
    if not isinstance(rows, np.ndarray):
        return torch.log_softmax(rows, dim=1)
    if not rows.shape[1]:
        return rows.copy()
    away = rows - np.maximum.reduce(rows, axis=1, keepdims=True)
    away -= np.log(np.add.reduce(np.exp(away), axis=1, keepdims=True))
    return away


def lengths(rows: Numbers) -> Numbers:
    """The Euclidean length of every row [n, d], at least SHORTEST: [n, 1]."""
    if isinstance(rows, np.ndarray):
        return np.maximum(np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None], SHORTEST)
    return torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(SHORTEST)


def unit(rows: Numbers) -> Numbers:
    """Rows [n, d] scaled to length 1; a zero row stays zero."""
    return rows / lengths(rows)


def join(parts: Sequence[Numbers]) -> Numbers:
    """One behind the other."""
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else torch.cat(list(parts))


def places(rows: Numbers) -> Numbers:
    """0, 1, 2, … for every row, to index with."""
    if isinstance(rows, np.ndarray):
        return np.arange(len(rows))
    return torch.arange(len(rows), device=rows.device)


def full(size: int, value: float, like: Numbers) -> Numbers:
    """float32 [size], where `like` lies."""
    if isinstance(like, np.ndarray):
        return np.full(size, value, np.float32)
    return torch.full((size,), value, device=like.device)


def log(numbers: Numbers) -> Numbers:
    return np.log(numbers) if isinstance(numbers, np.ndarray) else numbers.log()


def added(numbers: Numbers, at: Numbers, what: Numbers) -> Numbers:
    """`what` added to `numbers` in place; places that come more than once get all of theirs."""
    if isinstance(numbers, np.ndarray):
        np.add.at(numbers, at, what)
        return numbers
    return numbers.index_add_(0, at, what)
