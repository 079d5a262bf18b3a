"""Encoders: from a batch of inputs [rows, *shape] to features [rows, d].

An encoder is any module with an attribute `features: int`. Which one is used follows from the shape of x:
vectors get an MLP, images a small convolutional net; ResNet-18 is one setting away.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from streamlearn.arithmetic import Numbers, host, product_, relu_, tensor, total_

MAX_GRID = 4
"""Side of the largest feature map that the small net flattens; larger ones are averaged down to it."""


Backward = Callable[[Numbers, bool], object]
"""Takes the gradient of a net's output and makes it the parameters', or adds it to theirs; once."""


class NetError(ValueError):
    """The net of the settings can't be made, or not for this shape."""


class MLP(nn.Module):
    """Linear, ReLU: `width` features of a flattened input. weight [inputs, width], bias [width].

    The weight lies as the product takes it: the other way round a product of few rows takes twice the time.
    """

    def __init__(self, shape: Sequence[int], width: int) -> None:
        super().__init__()
        self.features = width
        inputs = 1
        for side in shape:
            inputs *= side
        linear = nn.Linear(inputs, width)
        # Its own, not a module's: to call a module costs as much as a product of this size.
        self.weight, self.bias = nn.Parameter(linear.weight.detach().T.contiguous()), linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.flatten(1), self.weight).relu_()

    def laid(self) -> None:
        """To be called when the parameters have been given their memory, for good."""
        self._weight, self._bias = host(self.weight), host(self.bias)
        if self.weight.grad is not None and self.bias.grad is not None:
            self._grads = host(self.weight.grad), host(self.bias.grad)

    def represent(self, x: Numbers) -> Numbers:
        """The same as a call, without a graph."""
        h = x.reshape(len(x), -1) @ self._weight
        h += self._bias
        return relu_(h)

    def traced(self, x: Numbers) -> tuple[Numbers, Backward]:
        """The same, and what takes the gradient."""
        h = self.represent(x)
        return h, lambda gradient, add: self.backward(x, h, gradient, add)

    def backward(self, x: Numbers, h: Numbers, gradient: Numbers, add: bool) -> Numbers:
        """Make the gradient of h = represent(x), [rows, width], the parameters', or add it to theirs.

        Returns that of the products, before the ReLU.
        """
        through = gradient * (h > 0)
        weight, bias = self._grads
        product_(x.reshape(len(x), -1).T, through, weight, add)
        total_(through, bias, add)
        return through


class SmallConv(nn.Module):
    """Three 3x3 convolutions of stride 2 (w, 2w, 4w channels), flattened, then 4w features.

    No normalisation layer: rows stay independent of each other, and at this size none was needed
    (measured in a prototype: group norm doubled the time of a step and gained nothing).

    Its backward is by hand, and weights [out, 3, 3, in] lie as inputs and gradients do, with the channels
    last. Autograd lays some of it the other way round, and a step takes a third longer.
    """

    def __init__(self, shape: Sequence[int], width: int) -> None:
        super().__init__()
        channels, height, breadth = shape
        widths = [channels, width, 2 * width, 4 * width]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in itertools.pairwise(widths):
            made = nn.Conv2d(before, after, 3)
            self.weights.append(made.weight.detach().permute(0, 2, 3, 1).contiguous())
            self.biases.append(made.bias)
            height, breadth = (height + 1) // 2, (breadth + 1) // 2
        self.grid = min(height, MAX_GRID), min(breadth, MAX_GRID)
        self.pools = (height, breadth) != self.grid
        self.features = 4 * width
        self.top = MLP([*self.grid, 4 * width], self.features)
        self.kind = torch.float32
        """What the convolutions reckon with."""

    def forward(self, x: Tensor) -> Tensor:
        z = channels_last(x)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            z = functional.conv2d(z, weight.permute(0, 3, 1, 2), bias, 2, 1).relu()
        return cast(Tensor, self.top(self._flattened(z)))

    def _flattened(self, z: Tensor) -> Tensor:
        """[rows, inputs of the top], the channels last."""
        if self.pools:
            z = functional.adaptive_avg_pool2d(z, self.grid)
        return z.permute(0, 2, 3, 1).flatten(1)

    def laid(self) -> None:
        """To be called when the parameters have been given their memory, for good."""
        self._layers = [
            (weight.detach().permute(0, 3, 1, 2), bias.detach())
            for weight, bias in zip(self.weights, self.biases, strict=True)
        ]
        self._grads = [
            (weight.grad.permute(0, 3, 1, 2), bias.grad)
            for weight, bias in zip(self.weights, self.biases, strict=True)
            if weight.grad is not None and bias.grad is not None
        ]
        self.top.laid()

    def represent(self, x: Numbers) -> Numbers:
        """The same as a call, without a graph."""
        return self.traced(x)[0]

    @torch.no_grad()
    def traced(self, x: Numbers) -> tuple[Numbers, Backward]:
        """The same, and what takes the gradient."""
        z, kind = channels_last(tensor(x)).to(self.kind), self.kind
        layers = []
        for weight, bias in self._layers:
            into, weight = z, weight.to(kind)
            z = functional.conv2d(into, weight, bias.to(kind), 2, 1).relu_()
            layers.append((into, weight, z))
        f = host(self._flattened(z).float())
        h = self.top.represent(f)

        @torch.no_grad()
        def backward(gradient: Numbers, add: bool) -> None:
            through = self.top.backward(f, h, gradient, add)
            flat = tensor(through @ host(self.top.weight).T)
            g = flat.view(len(f), *self.grid, -1).permute(0, 3, 1, 2).to(kind)
            if self.pools:
                g = torch.ops.aten._adaptive_avg_pool2d_backward(g, z)
            for number, (into, weight, out) in reversed(list(enumerate(layers))):
                g = torch.ops.aten.threshold_backward(g, out, 0)
                wanted = [number > 0, True, True]
                g, *own = torch.ops.aten.convolution_backward(
                    g, into, weight, [len(weight)], [2, 2], [1, 1], [1, 1], False, [0, 0], 1, wanted
                )
                for mine, new in zip(self._grads[number], own, strict=True):
                    mine.add_(new) if add else mine.copy_(new)

        return h, backward


def channels_last(x: Tensor) -> Tensor:
    """Images [rows, C, H, W] as they lie in memory if the channels come last.

    A single channel's lie so already, but for what their strides say of it: without it torch takes them for
    the other kind, and makes all that comes of them so.
    """
    channels, height, width = x.shape[1:]
    lies = x.permute(0, 2, 3, 1).contiguous()
    return lies.as_strided(x.shape, (height * width * channels, 1, width * channels, channels))


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that takes its running statistics where a batch has one value a channel.

    That happens at the end of a stream, or with a stream batch of one; there is no variance to divide by.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut (He et al., CVPR 2016, section 4.2)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = BatchNorm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = BatchNorm(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), BatchNorm(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return torch.relu(out + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 with the stem for small images (3x3, stride 1, no pooling); 8 x width features.

    width 64 is the full net (11.2 million parameters), width 20 the "reduced" one of the literature.
    """

    def __init__(self, shape: Sequence[int], width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        self.norm = BatchNorm(width)
        blocks: list[nn.Module] = []
        before = width
        for stage in range(4):
            after = width << stage
            blocks += [BasicBlock(before, after, 1 if stage == 0 else 2), BasicBlock(after, after, 1)]
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.features = before

    def forward(self, x: Tensor) -> Tensor:
        out = self.blocks(torch.relu(self.norm(self.stem(x))))
        return cast(Tensor, out.mean(dim=(2, 3)))


def make_encoder(net: str, shape: Sequence[int], width: int | None, seed: int) -> nn.Module:
    """The encoder named `net` for inputs of `shape`, initialised from `seed` alone.

    Raises NetError if the net doesn't fit the shape or the import string doesn't lead to a factory
    `(shape, width) -> Module` whose result has an integer attribute `features`.
    """
    if net == "auto":
        net = "conv" if len(shape) == 3 else "mlp"
    if net in ("conv", "resnet18") and len(shape) != 3:
        raise NetError(f"model.net = {net!r} wants images of shape [C, H, W], the events have {list(shape)}")
    # The layers' default initialisation draws from torch's global generator: lend it and give it back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if net == "mlp":
            return MLP(shape, width or 256)
        if net == "conv":
            return SmallConv(shape, width or 32)
        if net == "resnet18":
            return ResNet18(shape, width or 20)
        module, _, attribute = net.partition(":")
        if not attribute:
            raise NetError(
                f"model.net = {net!r} is none of auto, mlp, conv, resnet18, package.module:factory"
            )
        try:
            factory = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise NetError(f"model.net = {net!r} can't be imported: {error}") from error
        try:
            encoder = factory(tuple(shape), width)
        except Exception as error:
            raise NetError(
                f"model.net = {net!r} can't be made for x of shape {list(shape)}: {error}"
            ) from error
        if not isinstance(encoder, nn.Module) or not isinstance(getattr(encoder, "features", None), int):
            raise NetError(
                f"model.net = {net!r} must make a torch module with an integer attribute `features`"
            )
        _try(encoder, net, shape)
    return encoder


def _try(encoder: nn.Module, net: str, shape: Sequence[int]) -> None:
    """A stranger's net is asked once before it is trusted. Raises NetError."""
    training = encoder.training
    try:
        with torch.no_grad():
            found = list(encoder.eval()(torch.zeros(2, *shape)).shape)
    except Exception as error:
        raise NetError(f"model.net = {net!r} doesn't take x of shape {list(shape)}: {error}") from error
    encoder.train(training)
    if found != [2, encoder.features]:
        raise NetError(
            f"model.net = {net!r} makes features of shape {found} of two rows: "
            f"its attribute `features` promises [2, {encoder.features}]"
        )
