"""Losses and penalties against closed forms and finite differences."""

import math

import pytest
import torch

from medgan import losses
from medgan.sizes import Stage
from tests.unit.medgan_toys import built, spec, tiny


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_logistic_loss_is_cross_entropy():
    real, fake = torch.randn(6), torch.randn(6)
    loss = losses.LOSSES["bce"]
    expected = -torch.sigmoid(real).log().mean() - (1 - torch.sigmoid(fake)).log().mean()
    torch.testing.assert_close(loss.discriminator(real, fake), expected)
    torch.testing.assert_close(loss.generator(fake), -torch.sigmoid(fake).log().mean())
    assert losses.LOSSES["non_saturating"] is loss


def test_wasserstein_and_least_squares():
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.5, -0.5])
    assert float(losses.LOSSES["wasserstein"].discriminator(real, fake)) == pytest.approx(-2.0)
    assert float(losses.LOSSES["wasserstein"].generator(fake)) == pytest.approx(0.0)
    assert float(losses.LOSSES["least_squares"].discriminator(real, fake)) == pytest.approx((2.0 + 0.25) / 2)
    assert float(losses.LOSSES["least_squares"].generator(fake)) == pytest.approx((0.25 + 2.25) / 4)
    assert float(losses.drift(real)) == pytest.approx(5.0)


def test_minimax_and_hinge():
    fake = torch.tensor([1.5, -0.5])
    d = torch.sigmoid(fake)
    assert float(losses.LOSSES["minimax"].generator(fake)) == pytest.approx(float((1 - d).log().mean()), rel=1e-6)
    real = torch.tensor([0.25, 3.0])
    torch.testing.assert_close(
        losses.LOSSES["minimax"].discriminator(real, fake), losses.LOSSES["bce"].discriminator(real, fake)
    )
    assert float(losses.LOSSES["hinge"].discriminator(real, fake)) == pytest.approx((0.75 + 0) / 2 + (2.5 + 0.5) / 2)
    assert float(losses.LOSSES["hinge"].generator(fake)) == pytest.approx(-0.5)


def test_minimax_saturates_where_the_discriminator_is_sure_and_the_other_form_does_not():
    slopes = {}
    for name in ("minimax", "bce"):
        fake = torch.tensor([-10.0], requires_grad=True)
        losses.LOSSES[name].generator(fake).backward()
        slopes[name] = float(fake.grad.abs())
    assert slopes["minimax"] < 1e-4
    assert slopes["bce"] > 0.99


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_losses_pull_where_they_should(name):
    """Up with real logits and down with generated ones for one side, up with generated ones for the other."""
    loss = losses.LOSSES[name]
    real, fake = torch.full((3,), 0.3, requires_grad=True), torch.full((3,), 0.2, requires_grad=True)
    loss.discriminator(real, fake).backward()
    assert float(real.grad.max()) < 0 < float(fake.grad.min())
    fake = torch.full((3,), 0.2, requires_grad=True)
    loss.generator(fake).backward()
    assert float(fake.grad.max()) < 0


def linear_critic(direction):
    return lambda images: (images * direction).sum(dim=(1, 2, 3))


def test_penalties_of_a_linear_critic():
    direction = torch.randn(1, 2, 4, 4, generator=rng())
    real, fake = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    norm = float(direction.norm())
    assert float(losses.r1(linear_critic(direction), real)) == pytest.approx(norm**2, rel=1e-5)
    penalty = losses.gradient_penalty(linear_critic(direction), real, fake, rng())
    assert float(penalty) == pytest.approx((norm - 1) ** 2, rel=1e-4)


def test_gradient_penalty_of_a_quadratic_critic_is_taken_between_real_and_fake():
    real, fake = torch.full((64, 1, 1, 1), 2.0), torch.zeros(64, 1, 1, 1)
    penalty = losses.gradient_penalty(lambda x: x.square().sum(dim=(1, 2, 3)), real, fake, rng())
    epsilon = torch.rand(64, 1, 1, 1, generator=rng())
    torch.testing.assert_close(penalty, (2 * 2 * epsilon - 1).square().mean())  # |d/dx x²| = 2x at x = 2ε


CRITICS = {
    "mlp": ("cgan", {}),
    "dcgan": ("wgan_gp", {}),
    "pggan": ("pggan", {}),
    "stylegan": ("stylegan", {}),
    "stylegan2": ("stylegan2", {}),
    "plain": ("stylegan2", {"discriminator_form": "plain"}),
    "skip": ("stylegan2", {"discriminator_form": "skip"}),
}


def critic_of(name):
    """A network's discriminator in double precision, of one image of class 1."""
    preset, switch = CRITICS[name]
    architecture = built(tiny(preset, architecture=switch), spec()).double().eval()
    stage = architecture.stage_at(10**9)
    return lambda images: architecture.discriminator(images, torch.ones(len(images), dtype=torch.int64), stage)


def slope_by_differences(critic, image, step=1e-5):
    """∇D of one image [1, C, H, W], pixel by pixel."""
    slope = torch.zeros_like(image)
    with torch.no_grad():
        for place in range(image.numel()):
            ends = []
            for sign in (1, -1):
                moved = image.clone()
                moved.view(-1)[place] += sign * step
                ends.append(critic(moved).sum())
            slope.view(-1)[place] = (ends[0] - ends[1]) / (2 * step)
    return slope


@pytest.mark.parametrize("name", sorted(CRITICS))
def test_penalties_of_every_critic_against_finite_differences(name):
    critic = critic_of(name)
    real, fake = (torch.randn(1, 1, 16, 16, dtype=torch.float64, generator=rng(seed)) for seed in (0, 1))
    slope = slope_by_differences(critic, real)
    assert losses.r1(critic, real).item() == pytest.approx(slope.square().sum().item(), rel=1e-4)
    epsilon = torch.rand(1, 1, 1, 1, generator=rng(5))
    between = slope_by_differences(critic, epsilon * real + (1 - epsilon) * fake)
    penalty = losses.gradient_penalty(critic, real, fake, rng(5))
    assert penalty.item() == pytest.approx((between.norm().item() - 1) ** 2, rel=1e-4)


@pytest.mark.parametrize("preset", ["stylegan", "stylegan2"])
def test_path_length_of_a_network_against_finite_differences(preset):
    """‖Jᵀy‖ with each entry of Jᵀy = ∂⟨g(w), y⟩/∂w from two images; squares averaged over the layers."""
    architecture = built(tiny(preset), spec()).double()
    generator, stage = architecture.generator, architecture.stage_at(10**9)
    layers = generator.style_layers(stage)
    w = generator.mapping(torch.randn(2, 8, dtype=torch.float64, generator=rng()), torch.tensor([0, 1]))
    ws = w.detach().unsqueeze(1).repeat(1, layers, 1).requires_grad_(True)
    lengths = losses.path_lengths(generator.synthesis(ws, stage, None), ws, rng(3))
    y = torch.randn(2, 1, 16, 16, generator=rng(3)).double() / 16
    slope = torch.zeros_like(ws)
    step = 1e-6
    with torch.no_grad():
        for place in range(ws[0].numel()):
            ends = []
            for sign in (1, -1):
                moved = ws.clone()
                moved.flatten(1)[:, place] += sign * step
                ends.append((generator.synthesis(moved, stage, None) * y).sum(dim=(1, 2, 3)))
            slope.flatten(1)[:, place] = (ends[0] - ends[1]) / (2 * step)
    expected = slope.square().sum(dim=2).mean(dim=1).sqrt()
    assert float(expected.min()) > 1e-6
    torch.testing.assert_close(lengths.detach(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("preset", ["pggan", "stylegan", "stylegan2"])
def test_the_penalties_own_gradient_against_finite_differences(preset):
    """The double backward through every block: the fused convolutions, the blur, minibatch stddev."""
    architecture = built(tiny(preset), spec()).double()
    stage, labels = architecture.stage_at(10**9), torch.tensor([0, 1, 1, 0])
    images = torch.randn(4, 1, 16, 16, dtype=torch.float64, generator=rng())
    weight = architecture.discriminator.blocks[-1].conv0.weight

    def penalty():
        return losses.r1(lambda x: architecture.discriminator(x, labels, stage), images)

    penalty().backward()
    direction = torch.randn(weight.shape, dtype=torch.float64, generator=rng(1))
    step, slope = 1e-7, 0.0  # so small that hardly any leaky ReLU changes sides
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
        slope += sign * float(penalty().detach()) / (2 * step)
        with torch.no_grad():
            weight -= sign * step * direction
    assert float((weight.grad * direction).sum()) == pytest.approx(slope, rel=1e-3)


def test_path_length_of_a_linear_generator():
    """g(w) = A·w: Jᵀy = Aᵀy, with y known from the seed."""
    matrix = torch.randn(16, 5, generator=rng())
    ws = torch.randn(3, 1, 5, requires_grad=True)
    images = (ws[:, 0] @ matrix.T).reshape(3, 1, 4, 4)
    lengths = losses.path_lengths(images, ws, rng(7))
    y = torch.randn(3, 1, 4, 4, generator=rng(7)).reshape(3, 16) / math.sqrt(16)
    torch.testing.assert_close(lengths, (y @ matrix).norm(dim=1))


def test_path_length_averages_the_squares_over_layers():
    ws = torch.randn(2, 3, 4, requires_grad=True)
    images = (ws.sum(dim=(1, 2)))[:, None, None, None].expand(2, 1, 2, 2)
    lengths = losses.path_lengths(images, ws, rng(3))
    y = torch.randn(2, 1, 2, 2, generator=rng(3)) / 2
    torch.testing.assert_close(lengths, y.sum(dim=(1, 2, 3)).abs() * math.sqrt(4))


def test_r1_stays_in_float32_under_autocast_and_the_gradient_penalty_ends_in_it():
    seen = []

    def critic(images):
        logits = torch.nn.functional.conv2d(images, torch.ones(1, 1, 3, 3))
        seen.append((images.dtype, logits.dtype))
        return logits.sum(dim=(1, 2, 3))

    with torch.autocast("cpu", torch.bfloat16):
        first = losses.r1(critic, torch.randn(2, 1, 4, 4))
        second = losses.gradient_penalty(critic, torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4), rng())
    assert seen == [(torch.float32, torch.float32), (torch.float32, torch.bfloat16)]
    assert first.dtype == second.dtype == torch.float32


@pytest.mark.parametrize("preset", ["pggan", "wgan_gp"])
def test_the_gradient_penalty_under_autocast_is_off_by_far_less_than_batches_differ(preset):
    architecture = built(tiny(preset, architecture={"base_channels": 256, "max_channels": 16}), spec())
    critic, stage = architecture.discriminator, Stage(2)
    labels = torch.arange(16) % 2

    def gradient(batch, bfloat16):
        draws = rng(batch)
        real, fake = (torch.randn(16, 1, 16, 16, generator=draws) for _ in range(2))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            penalty = losses.gradient_penalty(lambda images: critic(images, labels, stage), real, fake, draws)
        found = torch.autograd.grad(penalty, list(critic.parameters()), allow_unused=True)
        return torch.cat([g.flatten() for g in found if g is not None])

    exact, rounded = (torch.stack([gradient(batch, kind) for batch in range(4)]) for kind in (False, True))
    noise = float((exact - exact.mean(dim=0)).norm(dim=1).mean())
    error = float((rounded - exact).norm(dim=1).mean())
    assert 0 < error < 0.5 * noise
    assert error < 0.05 * float(exact.norm(dim=1).mean())
