"""Views: random variants of stored inputs that keep their label, by kind of input.

All of it is batched tensor work with our own generator; an untouched view costs only the normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from streamlearn.arithmetic import Numbers, host, tensor
from streamlearn.config import ViewSettings
from streamlearn.normalise import Normaliser

RAW, STANDARD, WEAK, STRONG = "raw", "standard", "weak", "strong"
"""raw: untouched. standard: what a training loop does anyway, weak for images and raw for all else.
weak, strong: how far a view may stray."""

SPARSE = 0.5
"""A vector with more zeros than this share is taken for hashed words: some are left out, none get noise."""

GRAY_SHIFT, COLOUR_CROP = 2 / 28, 0.6
GRAY_LIGHT, COLOUR_LIGHT = 0.4, 0.2
"""Measured on Fashion-MNIST and CIFAR-100: crops ruin small gray images, colour ones gain by them."""

HOLE = (0.25, 0.5)
"""Side of the square that a strong view blanks, as a share of the image's side."""


@dataclass(frozen=True)
class _Reach:
    """How far image views go.

    Shares of the side (crop: smallest side left); light: of the contrast, and of the brightness of bytes; of
    other numbers, which have no black, standard deviations.
    """

    crop: float
    shift: float
    light: float
    flip: bool
    hole: bool

    @property
    def anywhere(self) -> bool:
        """Whether a view is anything but the image itself."""
        return self.crop < 1 or self.shift > 0 or self.light > 0 or self.flip or self.hole


class Views:
    """Makes normalised views [rows, *shape] of stored inputs.

    Images [C, H, W]: random crop (each side on its own), shift, mirror image, brightness and contrast.
    Colour images are cropped and mirrored unless the settings say otherwise; gray ones, which are often
    characters, are shifted. Vectors: noise in standard deviations, features set to their mean. Sparse
    vectors (hashed words, see SPARSE): words left out.
    """

    def __init__(
        self,
        settings: ViewSettings,
        shape: Sequence[int],
        normaliser: Normaliser,
        generator: torch.Generator,
    ) -> None:
        self.settings = settings
        self.normaliser = normaliser
        self.generator = generator
        self.image = len(shape) == 3
        self.mirrors = False
        if self.image:
            colour = shape[0] >= 3
            given = settings
            crop = given.crop if given.crop is not None else COLOUR_CROP if colour else 1.0
            shift = given.shift if given.shift is not None else 0.0 if colour else GRAY_SHIFT
            light = given.light if given.light is not None else COLOUR_LIGHT if colour else GRAY_LIGHT
            flip = given.flip if given.flip is not None else colour
            self.mirrors = flip
            self.reach = {
                WEAK: _Reach(crop, shift, light, flip, hole=False),
                STRONG: _Reach(
                    0.75 * crop if crop < 1 else crop, 1.5 * shift, min(1.0, 1.5 * light), flip, hole=True
                ),
            }

    def untouched(self, strength: str) -> bool:
        """Whether a view of this strength is the input itself, normalised."""
        if strength == RAW or not self.image:
            return strength in (RAW, STANDARD)
        return not self.reach[_strength(strength)].anywhere

    def __call__(self, raw: Numbers, strength: str) -> Numbers:
        """A view of every stored input [rows, *shape]; normalised float32, of the same kind."""
        if self.untouched(strength) or not len(raw):
            return self.normaliser(raw)
        x = tensor(raw)
        if self.image:
            x = self._image(x.float(), self.reach[_strength(strength)])
        else:
            x = self._vector(x, 1.0 if strength == WEAK else 2.0)
        return host(x) if isinstance(raw, np.ndarray) else x

    def _uniform(self, rows: int, columns: int, low: float, high: float) -> Tensor:
        device = self.generator.device
        return torch.rand(rows, columns, generator=self.generator, device=device).mul_(high - low).add_(low)

    def _image(self, x: Tensor, reach: _Reach) -> Tensor:
        # What isn't normalised has no deviations to speak of.
        n, raw = len(x), self.normaliser.as_bytes or not self.normaliser.enabled
        side = self._uniform(n, 2, reach.crop, 1.0)
        # grid coordinates run from -1 to 1: a crop of side s may lie anywhere within 1 - s of the centre
        centre = self._uniform(n, 2, -1.0, 1.0) * (1 - side + 2 * reach.shift)
        if reach.flip:
            mirror = torch.where(self._uniform(n, 1, 0.0, 1.0) < 0.5, -1.0, 1.0)
            side = torch.cat([side[:, :1] * mirror, side[:, 1:]], dim=1)
        x = functional.grid_sample(x, look_up(x, side, centre), padding_mode="border", align_corners=False)
        light = self._uniform(n, 2, 1 - reach.light, 1 + reach.light)[:, :, None, None, None]
        if not raw:
            # Nobody knows which number is black: brighter is so many standard deviations more.
            x = self.normaliser(x)
        middle = x.mean(dim=(1, 2, 3), keepdim=True)
        x = (x - middle).mul_(light[:, 0]).add_(middle)
        x = self.normaliser(x.mul_(light[:, 1])) if raw else x.add_(light[:, 1] - 1)
        return self._holes(x) if reach.hole else x

    def _holes(self, x: Tensor) -> Tensor:
        """Blank a square in each normalised image [n, C, H, W] (DeVries and Taylor, Cutout, 2017)."""
        n, _, height, width = x.shape
        half = self._uniform(n, 1, *HOLE) / 2
        middle = self._uniform(n, 2, 0.0, 1.0)
        rows = (torch.arange(height, device=x.device) + 0.5) / height
        columns = (torch.arange(width, device=x.device) + 0.5) / width
        tall = (rows - middle[:, :1]).abs() < half
        wide = (columns - middle[:, 1:]).abs() < half
        return x.masked_fill((tall[:, :, None] & wide[:, None, :])[:, None], 0.0)

    def _vector(self, raw: Tensor, strength: float) -> Tensor:
        n, d = raw.shape
        keep = self._uniform(n, d, 0.0, 1.0) >= min(0.9, strength * self.settings.dropout)
        sparse = ((raw == 0).sum(dim=1, keepdim=True) > SPARSE * d).to(raw.device)
        x = self.normaliser(torch.where(sparse, raw * keep, raw))
        noise = torch.randn(n, d, generator=self.generator, device=x.device)
        moved = (x + strength * self.settings.noise * noise) * keep
        return torch.where(sparse, x, moved)


def _strength(of_image: str) -> str:
    """Of an image's view: the standard one is the weak one."""
    return WEAK if of_image == STANDARD else of_image


def look_up(x: Tensor, side: Tensor, centre: Tensor) -> Tensor:
    """Where `grid_sample` is to look: [n, H, W, 2] of images [n, C, H, W], sides and centres [n, 2], x first.

    What `affine_grid` gives where nothing is turned, in a quarter of its time.
    """
    n, _, height, width = x.shape
    grid = torch.empty(n, height, width, 2, device=x.device)
    for axis, pixels in enumerate((width, height)):
        middles = (2 * torch.arange(pixels, device=x.device) + 1) / pixels - 1
        places = torch.addcmul(centre[:, axis, None], side[:, axis, None], middles)
        grid[..., axis] = places[:, None, :] if axis == 0 else places[:, :, None]
    return grid


def turned(x: Tensor, count: int) -> Tensor:
    """Further variants of square images by quarter turns, all but the untouched one.

    x [n, C, H, H]; count 1, 4 or 16. 4: turned by 90, 180, 270 degrees. 16: each of these, and no turn, with
    the left half, the right half, both or none turned by 180 degrees in place (Guo et al., OCM, ICML 2022).
    Returns [(count - 1) n, C, H, H], variant after variant.
    """
    if count == 1:
        return x[:0]
    bases = [x]
    if count == 16:
        half = x.shape[3] // 2
        left, right = x[..., :half], x[..., half:]
        over = left.flip(2, 3), right.flip(2, 3)
        bases += [torch.cat(halves, dim=3) for halves in ((over[0], right), (left, over[1]), over)]
    made = [base if turn == 0 else base.rot90(turn, (2, 3)) for base in bases for turn in range(4)]
    return torch.cat(made[1:])
