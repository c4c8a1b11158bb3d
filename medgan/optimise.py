"""Adam and RMSProp, steps that a non-finite value cannot spoil and who counts them, and the averaged generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medgan.architecture import Architecture
from medgan.config import GanConfig
from medgan.contract import Generator, Phase
from medgan.options import Optimiser


class GuardedAdam(torch.optim.Adam):
    """Fused Adam that can be told on the device to leave out a step.

    Attributes:
        found_inf: non-zero makes the next step do nothing. It is the flag by which ``torch.amp.GradScaler`` skips
            steps, so the host need not wait to learn whether a gradient was finite.
        grad_scale: the scaler's other attribute; unused.
    """

    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None


class GuardedRmsProp(torch.optim.Optimizer):
    """RMSProp (Tieleman & Hinton 2012) that can be told on the device to leave out a step, which torch's cannot.

    v ← αv + (1 − α)g², then θ ← θ − λ·g/(√v + ε): epsilon outside the root, as torch has it.

    Attributes:
        found_inf: see :class:`GuardedAdam`.
    """

    found_inf: Tensor | None = None

    def __init__(self, parameters: Sequence[Tensor], lr: float, alpha: float, eps: float):
        super().__init__(parameters, {"lr": lr, "alpha": alpha, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Updates weights that have a gradient, unless :attr:`found_inf` is non-zero."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["square_avg"] = torch.zeros_like(weight)
            squares = [self.state[weight]["square_avg"] for weight in weights]
            # Where a step is skipped the gradients become zeros, and rate and 1 − α with them.
            kept = torch.ones((), device=weights[0].device) if self.found_inf is None else 1 - self.found_inf
            gradients = [torch.where(kept > 0, weight.grad, 0.0) for weight in weights]
            new = torch._foreach_mul(gradients, gradients)
            torch._foreach_sub_(new, squares)
            torch._foreach_mul_(new, (1 - group["alpha"]) * kept)
            torch._foreach_add_(squares, new)
            roots = torch._foreach_sqrt(squares)
            torch._foreach_add_(roots, group["eps"])
            torch._foreach_addcdiv_(weights, gradients, roots, value=-group["lr"])


GuardedOptimiser = GuardedAdam | GuardedRmsProp


def build_optimisers(
    architecture: Architecture, phases: Sequence[Phase], options: Optimiser
) -> dict[str, GuardedOptimiser]:
    """One optimiser for each network.

    Where a regulariser runs on its own once for every k updates of its network, the optimiser makes k + 1 updates where
    k were meant; with c = k / (k + 1), rate and decays become c·λ, β₁^c and β₂^c (StyleGAN2, appendix B, "lazy
    regularization"). A network that is not updated at every step counts its own updates, not steps.
    """
    optimisers: dict[str, GuardedOptimiser] = {}
    for name, rate in (("generator", options.generator_rate), ("discriminator", options.discriminator_rate)):
        main = min(phase.every for phase in phases if phase.network == name and not phase.lazy)
        c = 1.0
        for phase in phases:
            if phase.network == name and phase.lazy:
                c *= phase.every / (phase.every + main)  # k = every / main
        parameters = list(getattr(architecture, name).parameters())
        if options.kind == "rmsprop":
            optimisers[name] = GuardedRmsProp(parameters, lr=rate * c, alpha=options.beta2**c, eps=options.epsilon)
            continue
        betas = (options.beta1**c, options.beta2**c)
        optimisers[name] = GuardedAdam(parameters, lr=rate * c, betas=betas, eps=options.epsilon, fused=True)
    return optimisers


def guarded_step(optimiser: GuardedOptimiser, loss: Tensor) -> Tensor:
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


class SkipCounts:
    """One phase's skipped steps, counted on the device, so that the host need not wait.

    The newest run of skips alone would not do: a phase that fails three times out of four breaks every run itself.
    So the longest run since the last look is kept, and the share of skips, in a window and in the whole course.

    Args:
        device: where they are counted.

    Attributes:
        counts: float32 [6]: newest run; longest run since the last look; skips and steps of the window; skips and
            steps of the course (since the start, or the newest going back).
    """

    def __init__(self, device: torch.device):
        self.counts = torch.zeros(6, device=device)

    def note(self, bad: Tensor) -> None:
        """Counts a step; ``bad`` as :func:`guarded_step` gives it."""
        run = (self.counts[0] + 1) * bad
        self.counts[1] = torch.maximum(self.counts[1], run)
        self.counts[0] = run
        self.counts[2::2] += bad
        self.counts[3::2] += 1

    def diagnosis(self, limit: int, last: bool) -> str:
        """What is wrong with the phase, or "".

        Args:
            limit: so many skips in a row are too many; and of so many steps or more, more than half.
            last: whether the training is at its end, where a phase that had fewer steps is judged by all of them.
        """
        _, longest, recent, window, skips, steps = (int(count) for count in self.counts.tolist())
        if longest >= limit:
            return f"{longest} consecutive steps"
        if window >= limit and 2 * recent > window:
            return f"{recent} of the last {window} steps"
        if last and 2 * skips > steps:
            return f"{skips} of all {steps} steps"
        return ""

    def looked(self, limit: int) -> bool:
        """After a look that found nothing wrong: begins to look for the longest run anew, and ends a full window.

        Returns:
            whether the newest step was made.
        """
        run, _, _, window, *_ = self.counts.tolist()
        self.counts[1] = run
        if window >= limit:
            self.counts[2:4] = 0
        return run == 0


class GuardedBuffers:
    """Running statistics that a skipped step leaves alone, like the weights.

    A forward pass in training mode moves batch norm's statistics before anyone can know that it was spoilt, and one
    non-finite value would stay in them for good. So they are kept beside, in one vector, and put back on the device:
    a few small kernels a phase, and the host does not wait.

    Args:
        network: whose floating-point buffers are guarded; on its device already.
    """

    def __init__(self, network: nn.Module):
        self.buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        self.sizes = [buffer.numel() for buffer in self.buffers]
        self.keep()

    def keep(self) -> None:
        """Takes the buffers as they are for sound."""
        self.sound = torch.cat([buffer.flatten() for buffer in self.buffers]) if self.buffers else torch.empty(0)

    @torch.no_grad()
    def settle(self, bad: Tensor) -> None:
        """Keeps the buffers, or puts back what was kept if the step was skipped or any of them is non-finite.

        Args:
            bad: see :func:`guarded_step`.
        """
        if not self.buffers:
            return
        moved = torch.cat([buffer.flatten() for buffer in self.buffers])
        self.sound = torch.where((bad == 0) & torch.isfinite(moved).all(), moved, self.sound)
        parts = self.sound.split(self.sizes)
        torch._foreach_copy_(
            self.buffers, [part.view_as(buffer) for part, buffer in zip(parts, self.buffers, strict=True)]
        )


def ema_decay(config: GanConfig, images_seen: int) -> float:
    """Decay of the average at this step: shorter at first, so that the first weights do not linger in it."""
    if config.ema_ramp_up == 0 or config.ema == 0:
        return config.ema
    half_life = max(config.ema_ramp_up * images_seen, 1e-8)
    return min(config.ema, 0.5 ** (config.batch / half_life))


@torch.no_grad()
def average(averaged: Generator, newest: Generator, decay: float) -> None:
    """Averaged ← decay·averaged + (1 − decay)·newest.

    Running statistics are averaged like the weights: those of the newest weights are not the averaged ones' own.
    Integer buffers (counts) are copied.
    """
    mine: list[Tensor] = [*averaged.parameters()]
    theirs: list[Tensor] = [*newest.parameters()]
    for old, new in zip(averaged.buffers(), newest.buffers(), strict=True):
        if old.is_floating_point():
            mine.append(old)
            theirs.append(new)
        else:
            old.copy_(new)
    torch._foreach_lerp_(mine, theirs, 1.0 - decay)
