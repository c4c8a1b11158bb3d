"""Whole networks against their plain formulation: images, logits, and every gradient."""

import copy

import pytest
import torch

from medgan.contract import Batch
from medgan.sizes import Stage
from tests.benchmarks import plain
from tests.unit.medgan_toys import built, randomised, spec, tiny

LABELS = torch.tensor([0, 1, 1, 0])
CONVOLUTIONAL = ["dcgan", "wgan_gp", "pggan", "stylegan", "stylegan2", "stylegan2_ada"]
STAGES = {"pggan": [Stage(0), Stage(2), Stage(2, 0.3)], "stylegan": [Stage(1), Stage(2), Stage(2, 0.3)]}
SWITCHED = {"stylegan without its constant": ("stylegan", {"constant": False})}


@pytest.mark.parametrize("preset", [*CONVOLUTIONAL, *SWITCHED])
@pytest.mark.parametrize(("height", "width", "channels"), [(16, 16, 1), (16, 24, 3)])
def test_images_and_logits(preset, height, width, channels):
    preset, switch = SWITCHED.get(preset, (preset, {}))
    fast = randomised(built(tiny(preset, architecture=switch), spec(height, width, channels))).double()
    for parameter in fast.parameters():
        parameter.data.mul_(0.3)
    slow = copy.deepcopy(fast)
    plain.use(slow)
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(4, 8, generator=rng, dtype=torch.float64)

    def noise(layer, h, w):
        return torch.randn(4, 1, h, w, generator=torch.Generator().manual_seed(layer), dtype=torch.float64)

    for stage in STAGES.get(preset, [Stage(2)]):
        images = [net.generator(z, LABELS, stage, noise) for net in (fast, slow)]
        torch.testing.assert_close(*images, check_dtype=False, rtol=1e-6, atol=1e-6)
        h, w = fast.pyramid.size(stage.level)
        real = torch.randn(4, channels, h, w, generator=rng, dtype=torch.float64)
        logits = [net.discriminator(real, LABELS, stage) for net in (fast, slow)]
        torch.testing.assert_close(*logits, check_dtype=False, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("preset", CONVOLUTIONAL)
def test_gradients_of_every_phase(preset):
    """First gradients, and those through the penalties' own gradients."""
    fast = built(tiny(preset), spec()).train()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in fast.parameters():  # noise scales, biases and the learned constant start too plain
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    slow = copy.deepcopy(fast)
    plain.use(slow)
    images = torch.randn(4, 1, 16, 16, generator=rng)
    names = [phase.name for phase in fast.phases()]
    assert {"discriminator", "generator"} <= set(names)
    for place, name in enumerate(names):
        found = []
        for architecture in (fast, slow):
            batch = Batch(images, LABELS, Stage(2), torch.Generator().manual_seed(place))
            loss, _ = architecture.phases()[place].loss(batch)
            architecture.zero_grad()
            loss.backward()
            found.append({key: p.grad for key, p in architecture.named_parameters() if p.grad is not None})
        assert found[0].keys() == found[1].keys()
        whole = max(float(gradient.norm()) for gradient in found[0].values())
        for key, gradient in found[0].items():
            apart = float((gradient - found[1][key]).norm())
            assert apart < 1e-3 * (float(gradient.norm()) + 1e-2 * whole), (name, key)
