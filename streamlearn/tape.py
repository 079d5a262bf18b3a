"""The backward of a step: by hand where the gradient is a few products, by autograd for all else.

Autograd's bookkeeping of a small net costs several times the net's arithmetic. So what a step computes of
its rows are nodes: the features that the encoder makes, the logits that the head makes of them. A loss
either knows its gradient by a node's numbers (`Explicit`), or uses the node's leaf like any other tensor
with a graph; from the nodes on, the head, and an encoder that is an MLP, know the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor

from streamlearn.arithmetic import Numbers, host, tensor

Onward = Callable[[Numbers], Numbers | None]
"""Takes the gradient of an output, adds those of the parameters to what there is; returns the input's."""


@dataclass(slots=True)
class Node:
    """Something computed in a step: `value` [rows, …], and where its gradient goes on to.

    onward: what to do with the gradient; its result is that of the node `of`.
    """

    value: Numbers
    onward: Onward
    of: Node | None = None
    gradient: Numbers | None = None
    _leaf: Tensor | None = field(default=None)

    @property
    def leaf(self) -> Tensor:
        """The value as a tensor that autograd knows."""
        if self._leaf is None:
            self._leaf = tensor(self.value).detach().requires_grad_()
        return self._leaf

    def add(self, gradient: Numbers, start: int = 0) -> None:
        """Add to the gradient of the rows from `start` on."""
        if self.gradient is None and len(gradient) == len(self.value):
            self.gradient = gradient
            return
        if self.gradient is None:
            self.gradient = 0 * self.value
        self.gradient[start : start + len(gradient)] += gradient

    def backward(self) -> None:
        """Send the gradient on."""
        if self._leaf is not None and self._leaf.grad is not None:
            self.add(host(self._leaf.grad))
        if self.gradient is None:
            return
        gradient = self.onward(self.gradient)
        if self.of is not None and gradient is not None:
            self.of.add(gradient)


@dataclass(frozen=True, slots=True)
class Explicit:
    """A loss whose gradient is known: `value`, a scalar, and d value / d node [rows from `start` on, …]."""

    value: float
    node: Node
    gradient: Numbers
    start: int = 0

    def __rmul__(self, weight: float) -> Explicit:
        return Explicit(weight * self.value, self.node, weight * self.gradient, self.start)


Loss = Tensor | Explicit
"""A scalar with a graph, or one whose gradient is known."""


def value_of(loss: Loss) -> float:
    return loss.value if isinstance(loss, Explicit) else float(loss.detach())


class Tape:
    """The nodes of a step, in their order."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []

    def clear(self) -> None:
        self._nodes.clear()

    def node(self, value: Numbers, onward: Onward, of: Node | None = None) -> Node:
        node = Node(value, onward, of)
        self._nodes.append(node)
        return node

    def backward(self, losses: Iterable[Loss]) -> None:
        """The gradient of the sum of all losses, through every node; the tape is empty then."""
        total: Tensor | None = None
        for loss in losses:
            if isinstance(loss, Explicit):
                loss.node.add(loss.gradient, loss.start)
            else:
                total = loss if total is None else total + loss
        if total is not None:
            total.backward()  # type: ignore[no-untyped-call]
        for node in reversed(self._nodes):
            node.backward()
        self.clear()
