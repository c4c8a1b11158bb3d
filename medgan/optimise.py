"""Adam, steps that a non-finite gradient cannot spoil, and the averaged generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medgan.config import GanConfig, Optimiser
from medgan.contract import Architecture, Generator, Phase


class GuardedAdam(torch.optim.Adam):
    """Fused Adam that can be told on the device to leave out a step.

    Attributes:
        found_inf: non-zero makes the next step do nothing. It is the flag by which ``torch.amp.GradScaler`` skips
            steps, so the host need not wait to learn whether a gradient was finite.
        grad_scale: the scaler's other attribute; unused.
    """

    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None


def build_optimisers(architecture: Architecture, phases: Sequence[Phase], options: Optimiser) -> dict[str, GuardedAdam]:
    """One Adam for each network.

    Where a regulariser runs at every k-th step on its own, the optimiser makes k + 1 updates where k were meant; with
    c = k / (k + 1), rate and decays become c·λ, β₁^c and β₂^c (StyleGAN2, appendix B, "lazy regularization").
    """
    optimisers: dict[str, GuardedAdam] = {}
    for name, rate in (("generator", options.generator_rate), ("discriminator", options.discriminator_rate)):
        c = 1.0
        for phase in phases:
            if phase.network == name and phase.lazy:
                c *= phase.every / (phase.every + 1)
        parameters = list(getattr(architecture, name).parameters())
        betas = (options.beta1**c, options.beta2**c)
        optimisers[name] = GuardedAdam(parameters, lr=rate * c, betas=betas, eps=options.epsilon, fused=True)
    return optimisers


def guarded_step(optimiser: GuardedAdam, loss: Tensor) -> Tensor:
    """Updates the weights unless the loss or a gradient is non-finite; then drops the gradients.

    Returns:
        1 if the step was skipped, else 0; float32 scalar on the device.
    """
    gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    norms = torch.stack([loss.detach().float(), *torch._foreach_norm(gradients)])
    bad = (~torch.isfinite(norms).all()).float()
    optimiser.found_inf = bad
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return bad


def ema_decay(config: GanConfig, images_seen: int) -> float:
    """Decay of the average at this step: shorter at first, so that the first weights do not linger in it."""
    if config.ema_ramp_up == 0 or config.ema == 0:
        return config.ema
    half_life = max(config.ema_ramp_up * images_seen, 1e-8)
    return min(config.ema, 0.5 ** (config.batch / half_life))


@torch.no_grad()
def average(averaged: Generator, newest: Generator, decay: float) -> None:
    """Averaged ← decay·averaged + (1 − decay)·newest; buffers (running statistics) are copied."""
    torch._foreach_lerp_(list(averaged.parameters()), list(newest.parameters()), 1.0 - decay)
    for mine, theirs in zip(averaged.buffers(), newest.buffers(), strict=True):
        mine.copy_(theirs)
