"""The backward of a step: by hand where the gradient is a few products, by autograd for all else.

Autograd's bookkeeping of a small net costs several times the net's arithmetic. So within a step the
features that `Model.encode` gives out, and the logits that `Model.classify` makes of them, are leaves that a
loss may use as it likes; from their gradients on, the head, and an encoder that is an MLP, know the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Backward = Callable[[Tensor], Tensor | None]
"""Takes the gradient of an output, adds those of the parameters to what there is; returns the input's."""


@dataclass(frozen=True)
class Explicit:
    """A loss whose gradient is known: `value`, a scalar, and d value / d logits [rows, classes].

    logits: what it was computed from, as `Model.classify` gave it. start: the first of its rows that take
    part; `gradient` [rows that do, classes] begins with it.
    """

    value: Tensor
    logits: Tensor
    gradient: Tensor
    start: int = 0

    def __rmul__(self, weight: float) -> Explicit:
        return Explicit(weight * self.value, self.logits, weight * self.gradient, self.start)

    def backward(self) -> None:
        """Add the gradient to that of the logits, which must be a leaf."""
        gradient = self.gradient
        if len(gradient) < len(self.logits):
            gradient = torch.zeros_like(self.logits)
            gradient[self.start : self.start + len(self.gradient)] = self.gradient
        self.logits.grad = gradient if self.logits.grad is None else self.logits.grad + gradient

    def graph(self) -> Tensor:
        """A scalar with this gradient, for logits that were made of something else."""
        return (self.logits[self.start : self.start + len(self.gradient)] * self.gradient).sum()


Loss = Tensor | Explicit
"""A scalar with a graph, or one whose gradient is known."""


def value_of(loss: Loss) -> float:
    return float(loss.value if isinstance(loss, Explicit) else loss.detach())


def backward(losses: Iterable[Loss]) -> None:
    """Gradients of the sum of all losses into the leaves that they were made of."""
    total: Tensor | None = None
    for loss in losses:
        if isinstance(loss, Explicit) and loss.logits.is_leaf:
            loss.backward()
            continue
        scalar = loss.graph() if isinstance(loss, Explicit) else loss
        total = scalar if total is None else total + scalar
    if total is not None:
        total.backward()  # type: ignore[no-untyped-call]


class Tape:
    """The leaves that a step's forwards have given out, and how the gradient goes on from each."""

    def __init__(self) -> None:
        self._leaves: list[tuple[Tensor, Tensor | None, Backward]] = []

    def clear(self) -> None:
        self._leaves.clear()

    def leaf(self, output: Tensor, onward: Backward, of: Tensor | None = None) -> Tensor:
        """`output`, to go on with; its gradient will be given to `onward`, whose result is that of `of`."""
        leaf = output.detach().requires_grad_()
        self._leaves.append((leaf, of, onward))
        return leaf

    def holds(self, tensor: Tensor) -> bool:
        """Whether it is one of these leaves."""
        return any(tensor is leaf for leaf, _, _ in self._leaves)

    @torch.no_grad()
    def backward(self) -> None:
        """From the leaves' gradients on; the tape is empty then."""
        for leaf, of, onward in reversed(self._leaves):
            if leaf.grad is None:
                continue
            gradient = onward(leaf.grad)
            if of is not None and gradient is not None:
                of.grad = gradient if of.grad is None else of.grad.add_(gradient)
        self.clear()
