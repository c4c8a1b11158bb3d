"""Generators whose images are known functions of z and w, for the tests of latent spaces' probes."""

import math

import numpy as np
import torch

from medgan.layers import double
from medgan.sample import LoadedGenerator
from medgan.sizes import Pyramid, Stage
from medgan.styles import StyleGenerator, StyleOptions
from pipeline.phantom import Anatomy, _Canvas, _draw_body, _draw_nodule
from tests.unit.medgan_toys import RANGE, spec, tiny

LATENT = 4


class Mapping(torch.nn.Module):
    """Any function of z as the mapping network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z, labels, label=1.0):
        return self.function(z)


class Toy(StyleGenerator):
    """w = mapping(z); the image is ``render(factors, noise)``, factor k being the k-th number of the k-th layer's w."""

    def __init__(self, render, mapping=lambda z: z, size=32, noise="none", latent=LATENT):
        pyramid = Pyramid.of(size, size)
        options = StyleOptions(latent=latent, width=latent, mapping_layers=1, label_width=1, noise=noise)
        super().__init__(options, spec(size, size, classes=("only",)), pyramid, "none", range(pyramid.levels + 1), 1.0)
        self.render, self.mapping = render, Mapping(mapping)

    def style_layers(self, stage):
        return self.latent

    def truncated_layers(self, stage):
        return self.latent

    def synthesis(self, ws, stage, noise):
        return self.render(ws.diagonal(dim1=1, dim2=2), noise)


def toy(render, mapping=lambda z: z, size=32, noise="none", latent=LATENT):
    network = Toy(render, mapping, size, noise, latent)
    stage = Stage(network.pyramid.levels)
    return LoadedGenerator(
        tiny("stylegan2"), spec(size, size, classes=("only",)), RANGE, network, stage, torch.device("cpu")
    )


def coordinates(size):
    """x [1, 1, size] and y [1, size, 1] in pixels from the middle."""
    axis = torch.arange(size) - (size - 1) / 2
    return axis[None, None, :], axis[None, :, None]


def disc(factors, noise=None, size=32):
    """A disc whose place, size and brightness are four independent factors: [N, 4] -> [N, 1, size, size]."""
    x, y = coordinates(size)
    dx, dy, radius, level = (factors[:, k, None, None] for k in range(4))
    distance = ((x - 2 * dx) ** 2 + (y - 2 * dy) ** 2).sqrt()
    inside = torch.sigmoid((7 + 0.8 * radius - distance) / 0.3)
    return (inside * (1.3 + 0.15 * level) - 1)[:, None]


def linear(matrix, size=32):
    """Images that are linear in w, and so small that nothing is clamped: matrix [size², latent]."""
    return lambda factors, noise=None: (factors @ matrix.T).unflatten(1, (1, size, size))


def swirl(z, turns=1.0):
    """Pairs of coordinates turned by an angle that grows with their length: normal as z is, but no plane keeps."""
    pairs = z.unflatten(1, (-1, 2))
    angle = turns * torch.pi * pairs.norm(dim=2)
    a, b = pairs.unbind(dim=2)
    return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=2).flatten(1)


def enlarged(noise, size):
    """Nearest neighbour doublings up to ``size``."""
    while noise.shape[2] < size:
        noise = double(noise)
    return noise


class Nodules:
    """Renders the phantom's chest with one nodule whose side, place and size are factors, and knows its ground truth.

    Attributes:
        mix: [LATENT, LATENT]; factors are multiplied with it first.
    """

    def __init__(self, mix=None, size=32):
        self.mix = torch.eye(LATENT) if mix is None else mix
        self.canvas = _Canvas(Anatomy.draw(np.random.default_rng(0)), size)
        self.lungs = _draw_body(self.canvas, Anatomy.draw(np.random.default_rng(0)), height=0.5)
        self.chest = self.canvas.hu.copy()
        self.found = {}

    def __call__(self, factors, noise=None):
        images = []
        for side, down, growth, outwards in (factors @ self.mix).tolist():
            self.canvas.hu = self.chest.copy()
            side = 1.0 if side > 0 else -1.0
            across, along = 0.15 * side * outwards, 0.2 * down  # shares of the lung's half axes
            place = math.hypot(across, along), math.atan2(along, across)
            diameter = max(24 + 3 * growth, 4.0)
            finding = _draw_nodule(self.canvas, self.lungs[side], side, 0.0, *place, diameter, 40.0)
            image = torch.tensor(self.canvas.hu + 1000).div(700).sub(1).clamp(-1, 1).float()[None]
            self.found[image.numpy().tobytes()] = finding
            images.append(image)
        return torch.stack(images)

    def attributes(self):
        """Scores that are the ground truth of images that were drawn here: which lung, how far back, how large."""

        def truth(of):
            return lambda images: torch.tensor([of(self.found[image.numpy().tobytes()]) for image in images]).double()

        return {
            "side": truth(lambda finding: 1.0 if finding.side == "left" else -1.0),
            "place": truth(lambda finding: finding.y_mm),
            "size": truth(lambda finding: finding.diameter_mm),
        }
