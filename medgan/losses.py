"""Adversarial losses and gradient penalties: functions of logits and critics that know no architecture.

R1 and path lengths are computed in float32 whatever autocast says: R1 draws a squared gradient towards zero, where
bfloat16's rounding would be what is left of it, and both run seldom. WGAN-GP's penalty holds a norm at one, far above
the rounding, and is most of a step: its critic follows autocast, and the gradient has the precision of the critic's
layers, bfloat16 there, whatever dtype it is in; interpolates, norm and mean are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from medgan.convolution import WithoutWeightGradients
from medgan.layers import exact
from medgan.ranks import normal, uniform

Critic = Callable[[Tensor], Tensor]
"""Images [N, C, H, W] to logits [N]."""


@dataclass(frozen=True)
class AdversarialLoss:
    """The two sides of the game.

    Attributes:
        discriminator: (real logits [N], fake logits [N]) → scalar.
        generator: fake logits [N] → scalar.
        boundary: the logit at which the discriminator calls real and generated equally likely; None where logits have
            no such meaning.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    boundary: float | None = 0.0


def _logistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    # −log D(x) − log(1 − D(G(z))) with D = sigmoid(logit)  (Goodfellow et al. 2014, equation 1)
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def _logistic_generator(fake: Tensor) -> Tensor:
    # −log D(G(z)): the non-saturating form  (Goodfellow et al. 2014, section 3)
    return F.softplus(-fake).mean()


def _minimax_generator(fake: Tensor) -> Tensor:
    # log(1 − D(G(z))): the other side of equation 1 as it stands. Its gradient vanishes where D is sure of itself.
    return -F.softplus(fake).mean()


def _hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    # E[max(0, 1 − D(x))] + E[max(0, 1 + D(G(z)))]  (Lim & Ye 2017; Miyato et al. 2018, equation 16)
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def _wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    # E[D(G(z))] − E[D(x)]  (Arjovsky et al. 2017, equation 2)
    return fake.mean() - real.mean()


def _wasserstein_generator(fake: Tensor) -> Tensor:
    return -fake.mean()


def _least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    # ½E[(D(x) − 1)²] + ½E[D(G(z))²]  (Mao et al. 2017, equation 9)
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def _least_squares_generator(fake: Tensor) -> Tensor:
    return (fake - 1).square().mean() / 2


_LOGISTIC = AdversarialLoss(_logistic_discriminator, _logistic_generator)

LOSSES: Mapping[str, AdversarialLoss] = MappingProxyType(
    {
        "bce": _LOGISTIC,  # what DCGAN calls it; on logits the same function as the next
        "non_saturating": _LOGISTIC,
        "minimax": AdversarialLoss(_logistic_discriminator, _minimax_generator),
        "least_squares": AdversarialLoss(_least_squares_discriminator, _least_squares_generator, boundary=0.5),
        "hinge": AdversarialLoss(_hinge_discriminator, _wasserstein_generator),
        "wasserstein": AdversarialLoss(_wasserstein_discriminator, _wasserstein_generator, boundary=None),
    }
)


def drift(real_logits: Tensor) -> Tensor:
    """E[D(x)²]: keeps a Wasserstein critic from drifting (PGGAN, appendix A.1)."""
    return real_logits.square().mean()


def r1(critic: Critic, images: Tensor) -> Tensor:
    """E[‖∇D(x)‖²] over real images (Mescheder et al. 2018, equation 9, without γ/2)."""
    with torch.autocast(images.device.type, enabled=False):
        return _gradient(critic, images).square().sum(dim=(1, 2, 3)).mean()


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
    """E[(‖∇D(x̂)‖₂ − 1)²] with x̂ = εx + (1 − ε)G(z), ε ~ U(0, 1) for each image (Gulrajani et al. 2017, algorithm 1)."""
    epsilon = uniform((len(real), 1, 1, 1), rng)
    mixed = torch.lerp(exact(fake), exact(real), epsilon.to(exact(real).dtype))
    norm = _gradient(critic, mixed).square().sum(dim=(1, 2, 3)).add(1e-16).sqrt()  # finite slope at a zero gradient
    return (norm - 1).square().mean()


def path_lengths(images: Tensor, ws: Tensor, rng: torch.Generator) -> Tensor:
    """‖Jᵀy‖ of each image, y ~ N(0, I) (StyleGAN2, equation 4), [N], differentiable.

    Jᵀy is the gradient of ⟨g(w), y⟩. y is divided by the root of the number of pixels, so that the length does not
    depend on the resolution; the norm is averaged over the layers, each of which got its own copy of w.

    Args:
        images: g(ws), float32 [N, C, H, W].
        ws: the styles they were made from, [N, layers, width], in the images' graph.
        rng: where y comes from.
    """
    y = normal(images.shape, rng) / (images.shape[2] * images.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((images * y).sum(), ws, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).add(1e-16).sqrt()  # [N, L, W] -> [N, L] -> [N]


def _gradient(critic: Critic, images: Tensor) -> Tensor:
    """∇D for each image, [N, C, H, W]; differentiable; float32 in dtype, in precision what the critic computed in.

    It is the gradient of the sum of logits, so that one backward pass serves all images. Where each logit depends on
    its own image alone, that is each logit's gradient. With minibatch stddev a logit depends on its group a little, and
    the gradient at an image has a share of the others' logits; published implementations take the sum all the same.
    """
    images = exact(images.detach()).requires_grad_(True)
    with WithoutWeightGradients():
        logits = critic(images)
        with torch.autocast(images.device.type, enabled=False):
            (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return exact(gradient)
