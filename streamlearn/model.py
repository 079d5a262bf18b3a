"""The model: an encoder and an open head, with every parameter in two flat tensors.

Flat storage makes the optimiser, the copies for a checkpoint and every average of the weights one
operation each, whatever the net.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from streamlearn.config import ModelSettings
from streamlearn.nets import MLP, SmallConv, make_encoder
from streamlearn.state import Part, copy, fill
from streamlearn.tape import Loss, Tape, backward

FIRST_CAPACITY = 16
"""Rows that the head's storage has at first; it doubles whenever it is full."""

SHORTEST = 1e-12
"""Rows shorter than this are divided by it: a row of zeros has no direction."""


class Model:
    """logits = head(encoder(x)), one column for every class seen in a step so far.

    flat, flat_grad: all parameters of the encoder and their gradient [p].
    rows, rows_grad: storage of the head [capacity, d + bias], of which the first `classes` rows are in use.
    `head` is the leaf that gradients flow to: a view of `rows`. The linear head's bias is its last column.
    """

    def __init__(
        self,
        settings: ModelSettings,
        shape: Sequence[int],
        seed: int,
        device: torch.device,
        projector: int = 0,
    ) -> None:
        self.settings = settings
        self.shape = tuple(shape)
        self.device = device
        self.encoder = make_encoder(settings.net, shape, settings.width, seed).to(device)
        self.features: int = int(self.encoder.features)  # type: ignore[arg-type]
        weights = [p.detach().reshape(-1) for p in self.encoder.parameters()]
        if projector:
            # As a linear layer's default, from a seed of its own: the encoder is that without a projector.
            own = torch.Generator().manual_seed(seed + 1)
            bound = 1 / math.sqrt(self.features)
            drawn = (2 * torch.rand(projector * self.features, generator=own) - 1) * bound
            weights.append(drawn.to(device))
        self.flat = torch.cat(weights).contiguous()
        self.flat_grad = torch.zeros_like(self.flat)
        end = lay(self.encoder, self.flat, self.flat_grad)
        self.projector: Tensor | None = None
        if projector:
            self.projector = self.flat[end:].view(projector, self.features).requires_grad_()
            self.projector.grad = self.flat_grad[end:].view(projector, self.features)
        self.encoder.eval()
        # Walking a net's modules twice a step costs as much as a small net's forward.
        self._has_modes = not isinstance(self.encoder, MLP | SmallConv)
        self._learns = False
        self._tape = Tape()
        self.linear = settings.head == "linear"
        self.classes = 0
        self.rows = torch.zeros(FIRST_CAPACITY, self.features + self.linear, device=device)
        self.rows_grad = torch.zeros_like(self.rows)
        self._lay_head()

    @property
    def parameters(self) -> int:
        """Number of parameters in use."""
        return self.flat.numel() + self.classes * self.rows.shape[1]

    def _lay_head(self) -> None:
        """Point the leaf at the rows in use."""
        self.used, self.used_grad = self.rows[: self.classes], self.rows_grad[: self.classes]
        self.head = self.used.detach().requires_grad_()
        self.head.grad = self.used_grad
        if self.linear:
            d = self.features
            self._linear = self.used[:, :d], self.used[:, d], self.used_grad[:, :d], self.used_grad[:, d]

    def grow(self, classes: int, generator: torch.Generator) -> None:
        """Give the head rows for `classes` classes. No existing parameter changes by a bit.

        A new row of the linear head is zero; of the cosine head, where a zero row has no direction, it is
        drawn from U(-1/sqrt(d), 1/sqrt(d)) (the default of a linear layer).
        """
        if classes <= self.classes:
            return
        if classes > self.rows.shape[0]:
            capacity = max(2 * self.rows.shape[0], 1 << (classes - 1).bit_length())
            rows = torch.zeros(capacity, self.rows.shape[1], device=self.device)
            rows[: self.classes] = self.rows[: self.classes]
            self.rows, self.rows_grad = rows, torch.zeros_like(rows)
        if not self.linear:
            bound = 1 / math.sqrt(self.features)
            new = torch.rand(
                classes - self.classes, self.features, generator=generator, device=generator.device
            )
            self.rows[self.classes : classes] = ((2 * new - 1) * bound).to(self.device)
        self.classes = classes
        self._lay_head()

    def encode(self, x: Tensor, encoder: nn.Module | None = None) -> Tensor:
        """Features [rows, d] of normalised inputs [rows, *shape], by another encoder of the kind if given."""
        if encoder is None and self._learns and torch.is_grad_enabled():
            return self._encode_to_learn(x)
        return self._encode(x, self.encoder if encoder is None else encoder)

    def _encode_to_learn(self, x: Tensor) -> Tensor:
        """The same, as a leaf of the tape."""
        encoder = self.encoder
        if isinstance(encoder, MLP) and self.settings.dtype == "float32":
            with torch.no_grad():
                h = encoder.forward(x)
            return self._tape.leaf(h, lambda gradient: encoder.backward(x, h, gradient))
        features = self._encode(x, encoder)
        return self._tape.leaf(features, features.backward)

    def _encode(self, x: Tensor, encoder: nn.Module) -> Tensor:
        if self.settings.dtype == "bfloat16":
            with torch.autocast(self.device.type, torch.bfloat16):
                h: Tensor = encoder(x)
            return h.float()
        features: Tensor = encoder(x)
        return features

    def classify(self, h: Tensor, head: Tensor | None = None) -> Tensor:
        """Logits [rows, classes] of features [rows, d], by another head's rows if given."""
        if head is None and self._tape.holds(h):
            return self._classify_to_learn(h)
        head = self.head if head is None else head
        if self.linear:
            if not torch.is_grad_enabled() and head is self.head:
                return functional.linear(h, *self._linear[:2])
            return functional.linear(h, head[:, : self.features], head[:, self.features])
        return unit(h) @ unit(head).T / self.settings.temperature

    @torch.no_grad()
    def _classify_to_learn(self, h: Tensor) -> Tensor:
        """The same of a leaf of the tape, as a leaf of the tape."""
        rows, rows_grad = self.used, self.used_grad
        if self.linear:
            weight, bias, weight_grad, bias_grad = self._linear

            def linear(gradient: Tensor) -> Tensor:
                weight_grad.addmm_(gradient.T, h)
                bias_grad.add_(gradient.sum(dim=0))
                return gradient @ weight

            return self._tape.leaf(functional.linear(h, weight, bias), linear, h)
        heat = 1 / self.settings.temperature
        (u, length), (v, lengths) = _unit(h), _unit(rows)

        def cosine(gradient: Tensor) -> Tensor:
            # d unit(a) = (da - u (u . da)) / |a|
            to_u, to_v = (gradient @ v).mul_(heat), (gradient.T @ u).mul_(heat)
            rows_grad.add_(to_v.sub_(v * (v * to_v).sum(dim=1, keepdim=True)).div_(lengths))
            return to_u.sub_(u * (u * to_u).sum(dim=1, keepdim=True)).div_(length)

        return self._tape.leaf((u @ v.T).mul_(heat), cosine, h)

    def project(self, h: Tensor) -> Tensor:
        """Projections [rows, width], of length 1, of features [rows, d]."""
        assert self.projector is not None, "the method asked for no projector"
        return unit(functional.linear(h, self.projector))

    def __call__(self, x: Tensor) -> Tensor:
        return self.classify(self.encode(x))

    def backward(self, losses: Iterable[Loss]) -> None:
        """Gradients of the sum of `losses` into flat_grad and rows_grad, which hold nothing from before."""
        self.flat_grad.zero_()
        self.used_grad.zero_()
        backward(losses)
        self._tape.backward()

    def buffers(self) -> dict[str, Tensor]:
        """Running statistics of normalisation layers, by name."""
        return {name: b for name, b in self.encoder.named_buffers() if b is not None}

    def part(self) -> Part:
        buffers = {f"buffer.{name}": copy(b) for name, b in self.buffers().items()}
        return Part(
            tensors={"flat": copy(self.flat), "rows": copy(self.rows), **buffers},
            values={"classes": self.classes},
        )

    def load(self, part: Part) -> None:
        """Take the state in `part`; ValueError if it is of another net."""
        rows = part.tensors["rows"]
        self.rows = torch.zeros(rows.shape, device=self.device)
        self.rows_grad = torch.zeros_like(self.rows)
        fill(self.rows, rows, "head")
        fill(self.flat, part.tensors["flat"], "encoder")
        for name, buffer in self.buffers().items():
            fill(buffer, part.tensors[f"buffer.{name}"], name)
        self.classes = int(part.values["classes"])
        self._lay_head()

    def train_mode(self, on: bool) -> None:
        """Begin a step, and end it: what is computed in between can be learned from by `backward`.

        Layers like batch norm do what they do in training.
        """
        self._learns = on
        self._tape.clear()
        if self._has_modes:
            self.encoder.train(on)


def lay(encoder: nn.Module, flat: Tensor, grad: Tensor | None = None) -> int:
    """Make the encoder's parameters (and their gradients) views of `flat` (and `grad`); where they end."""
    start = 0
    for parameter in encoder.parameters():
        end = start + parameter.numel()
        parameter.data = flat[start:end].view_as(parameter)
        parameter.grad = None if grad is None else grad[start:end].view_as(parameter)
        start = end
    return start


def unit(rows: Tensor) -> Tensor:
    """Rows [n, d] scaled to length 1; a zero row stays zero."""
    return _unit(rows)[0]


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and the lengths [n, 1] that the rows were divided by."""
    length: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(SHORTEST)
    return rows / length, length


def choose_device(name: str) -> torch.device:
    """The torch device for a setting; ValueError if it isn't there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"model.device = {name!r}: {str(error).splitlines()[0]}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"model.device = {name!r}, but torch finds no CUDA device here")
    return device
