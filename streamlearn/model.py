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

from streamlearn.arithmetic import Numbers, host, lengths, product_, tensor, total_, unit
from streamlearn.config import ModelSettings
from streamlearn.nets import MLP, SmallConv, make_encoder
from streamlearn.state import Part, copy, fill
from streamlearn.tape import Loss, Node, Tape

FIRST_CAPACITY = 16
"""Rows that the head's storage has at first; it doubles whenever it is full."""


class Model:
    """logits = head(encoder(x)), one column for every class seen in a step so far.

    flat, flat_grad: all parameters of the encoder and their gradient [p].
    rows, rows_grad: storage of the head [capacity, d + bias], of which the first `classes` rows are in use:
    `used` and `used_grad`. The linear head's bias is its last column.
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
        self._before: list[Tensor] = []
        """Running statistics before the step: its forward has taken the batch into them."""
        self.by_hand = settings.dtype == "float32" and not self._has_modes
        if isinstance(self.encoder, SmallConv):
            self.by_hand, self.encoder.kind = True, getattr(torch, settings.dtype)
        self._flat_grad = host(self.flat_grad)
        self._tape = Tape()
        self._encoder_has = self._rows_have = False
        """Whether this backward has reached the encoder's gradient, and the head's."""
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
        """Cut out the rows in use."""
        self.used, self.used_grad = self.rows[: self.classes], self.rows_grad[: self.classes]
        self._used, self._used_grad = host(self.used), host(self.used_grad)
        # To reckon with.
        self.weights = host(self.flat), self._used

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
        encoder = self.encoder if encoder is None else encoder
        if self.settings.dtype == "bfloat16":
            with torch.autocast(self.device.type, torch.bfloat16):
                h: Tensor = encoder(x)
            return h.float()
        features: Tensor = encoder(x)
        return features

    def represent(self, x: Numbers, encoder: nn.Module | None = None) -> Numbers:
        """The same without a graph."""
        encoder = self.encoder if encoder is None else encoder
        if self.by_hand:
            assert isinstance(encoder, MLP | SmallConv)
            return encoder.represent(x)
        with torch.inference_mode():
            return host(self.encode(tensor(x), encoder))

    def score(self, h: Numbers, rows: Numbers | None = None) -> Numbers:
        """Logits [rows, classes] of features [rows, d], by another head's rows if given."""
        rows = self._used if rows is None else rows
        if self.linear:
            logits = h @ rows[:, : self.features].T
            logits += rows[:, self.features]
            return logits
        return self._cosines(h, rows)[0] / self.settings.temperature

    def _cosines(self, h: Numbers, rows: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """[n, classes] of features [n, d] and the head's rows, and the lengths: [n, 1], [1, classes].

        The products are divided, not the factors: of thousands of classes the rows are what takes time.
        """
        h_length, row_length = lengths(h), lengths(rows).T
        cosines = h @ rows.T
        cosines /= h_length
        cosines /= row_length
        return cosines, h_length, row_length

    # -- within a step, between `begin` and `backward`

    def begin(self) -> None:
        """Begin a step. Layers like batch norm do what they do in training."""
        self._tape.clear()
        if self._has_modes:
            self._before = [buffer.clone() for buffer in self.buffers().values()]
            self.encoder.train()

    def end(self, learns: bool) -> None:
        """learns: whether the weights are to change; if not, nothing else of the net has changed either."""
        if self._has_modes:
            self.encoder.eval()
            if not learns:
                for buffer, before in zip(self.buffers().values(), self._before, strict=True):
                    buffer.copy_(before)

    def encoded(self, x: Numbers) -> Node:
        """Features [rows, d] of normalised inputs [rows, *shape], to learn from."""
        encoder = self.encoder
        if self.by_hand:
            assert isinstance(encoder, MLP | SmallConv)
            h, back = encoder.traced(x)

            def onward(gradient: Numbers) -> None:
                back(gradient, self._encoder_has)
                self._encoder_has = True

            return self._tape.node(h, onward)
        features = self.encode(tensor(x))
        return self._tape.node(host(features), lambda gradient: _through(features, gradient))

    def classified(self, h: Node) -> Node:
        """Logits [rows, classes] of features, to learn from."""
        rows, rows_grad, d = self._used, self._used_grad, self.features
        if self.linear:

            def linear(gradient: Numbers) -> Numbers:
                product_(gradient.T, h.value, rows_grad[:, :d], self._rows_have)
                total_(gradient, rows_grad[:, d], self._rows_have)
                self._rows_have = True
                return gradient @ rows[:, :d]

            return self._tape.node(self.score(h.value), linear, h)
        heat = 1 / self.settings.temperature
        cosines, h_length, row_length = self._cosines(h.value, rows)

        def cosine(gradient: Numbers) -> Numbers:
            # With c = h.w / (|h| |w|):  dc/dw = h / (|h| |w|) - c w / |w|^2, and the same of h.
            gradient = heat * gradient
            onto, shared = gradient * cosines, gradient / h_length / row_length
            product_(shared.T, h.value, rows_grad, self._rows_have)
            self._rows_have = True
            less = (onto.sum(0) / row_length[0] ** 2)[:, None]
            tensor(rows_grad).addcmul_(tensor(rows), tensor(less), value=-1)
            to_h = shared @ rows
            to_h -= (onto.sum(1)[:, None] / h_length**2) * h.value
            return to_h

        return self._tape.node(heat * cosines, cosine, h)

    def project(self, h: Tensor) -> Tensor:
        """Projections [rows, width], of length 1, of features [rows, d]."""
        assert self.projector is not None, "the method asked for no projector"
        projections: Tensor = unit(functional.linear(h, self.projector))
        return projections

    def backward(self, losses: Iterable[Loss]) -> None:
        """Gradients of the sum of `losses` into flat_grad and rows_grad, whatever these held before."""
        # Where the gradient is known by hand it is written; to add it to zeros would be two passes more.
        self._encoder_has, self._rows_have = not self.by_hand, False
        if not self.by_hand:
            self._flat_grad[...] = 0
        elif self.projector is not None and self.projector.grad is not None:
            self.projector.grad.zero_()
        self._tape.backward(losses)
        if not self._encoder_has:
            self._flat_grad[...] = 0
        if not self._rows_have:
            self._used_grad[...] = 0

    def learnable(self) -> bool:
        """Whether the gradient can be learned from, as that of a finite loss need not.

        The square of its length meets every NaN and infinity, in one pass.
        """
        g, head = self._flat_grad, self._used_grad.reshape(-1)
        return math.isfinite(float(g @ g) + float(head @ head))

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [rows, classes] of normalised inputs [rows, *shape]."""
        return tensor(self.score(self.represent(host(x))))

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


def lay(encoder: nn.Module, flat: Tensor, grad: Tensor | None = None) -> int:
    """Make the encoder's parameters (and their gradients) views of `flat` (and `grad`); where they end."""
    start = 0
    for parameter in encoder.parameters():
        end = start + parameter.numel()
        parameter.data = flat[start:end].view_as(parameter)
        parameter.grad = None if grad is None else grad[start:end].view_as(parameter)
        start = end
    if isinstance(encoder, MLP | SmallConv):
        encoder.laid()
    return start


def _through(output: Tensor, gradient: Numbers) -> None:
    """By autograd."""
    output.backward(tensor(gradient))  # type: ignore[no-untyped-call]


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
