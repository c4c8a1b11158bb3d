"""Forward passes of the networks through ``torch.compile``, and eager wherever that does not work.

Only passes that are differentiated once are compiled: the generated images and the scores of the adversarial losses.
What is differentiated twice (gradient penalty, R1, path length) calls the networks themselves, as torch cannot
differentiate the gradient of compiled code. Random numbers are drawn before a pass and handed in, so that it can be
repeated, and the stream of random numbers is the eager one.

Eager whatever is asked for: a stage while it fades and the class while it fades in (their weight is another number at
every step, for each of which the compiler would work anew); a discriminator that draws random numbers of its own
(dropout, PGGAN's multiplicative noise); several processes, which exchange statistics within a pass.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medgan import ranks
from medgan.contract import DrawnNoise
from medgan.sizes import Stage

Mode = Literal["off", "default", "reduce-overhead"]

Source = DrawnNoise | torch.Generator | None
"""Where a pass has its random numbers from."""

Compiled = Callable[[list[Tensor], Mapping[int, Tensor]], Tensor]

logger = logging.getLogger(__name__)
_one_at_a_time = threading.Lock()  # the compiler's settings are the whole process's


class Pass:
    """A network's forward pass in training.

    The compiler works at the first call of every form that a pass takes: size and layout, with or without gradients,
    trained or fixed weights. Where it fails, or what it made fails, one warning says so, and this pass and all that
    follow are made by the network itself.

    Args:
        network: whose it is.
        method: name of the network's method; it takes tensors, a stage, and a source of random numbers.
        mode: torch's name of a mode, or "off". CUDA graphs ("reduce-overhead") are none of a CPU's: "default" there.

    Attributes:
        ran: how passes ran so far, in the order in which each first happened: a mode's name, or "eager (WHY)".
    """

    def __init__(self, network: nn.Module, method: str, mode: Mode):
        self.network, self.method = network, method
        on_cpu = all(weight.device.type == "cpu" for weight in network.parameters())
        self.mode: Mode = "default" if on_cpu and mode == "reduce-overhead" else mode
        self.ran: list[str] = []
        self.failure = ""
        self.forms: dict[tuple[object, ...], Compiled] = {}

    def __call__(self, inputs: Sequence[Tensor], stage: Stage, source: Source) -> Tensor:
        """Runs it.

        Args:
            inputs: the method's tensors.
            stage: see :class:`Stage`.
            source: noise, drawn already; or where the network draws from by itself.

        Returns:
            what the method returns.
        """
        why = self.obstacle(stage, source)
        if not why:
            try:
                noise = source.maps if isinstance(source, DrawnNoise) else {}
                y = self.compiled([one_layout(x) for x in inputs], stage, noise)
            except Exception as error:  # whatever it is: if it is not the compiler's, the eager pass raises it again
                self.give_up(error)
                why = self.failure
            else:
                self.note(self.mode)
                return y
        self.note(f"eager ({why})")
        eager: Tensor = getattr(self.network, self.method)(*inputs, stage, source)
        return eager

    def obstacle(self, stage: Stage, source: Source) -> str:
        """Why a pass cannot be compiled, or ""."""
        if self.mode == "off":
            return "compile off"
        if self.failure:
            return self.failure
        if ranks.count() > 1:
            return "several processes"
        if isinstance(source, torch.Generator):
            return "draws by itself"
        return "" if stage.alpha == 1.0 and stage.label in (0.0, 1.0) else "fading"

    def note(self, how: str) -> None:
        """Remembers how a pass ran."""
        if how not in self.ran:
            self.ran.append(how)

    def give_up(self, error: Exception) -> None:
        """Says once that the compiler failed."""
        self.failure = type(error).__name__
        self.forms = {}
        first_line = " ".join(str(error).split())[:300]
        logger.warning(
            "compile: %s.%s goes on without it, at the same result and less speed (%s: %s)",
            *(type(self.network).__name__, self.method, self.failure, first_line),
        )

    def compiled(self, inputs: list[Tensor], stage: Stage, noise: Mapping[int, Tensor]) -> Tensor:
        """The pass through the compiler, which works first if this is a new form."""
        trained = any(weight.requires_grad for weight in self.network.parameters())
        layout = tuple((x.shape, x.stride(), x.dtype, x.requires_grad) for x in inputs)
        form = (stage, torch.is_grad_enabled(), trained, layout)
        if form not in self.forms:
            made = self.make(stage)
            with _one_at_a_time, _backward_without_autocast():
                self.rehearse(made, inputs, noise)
            self.forms[form] = made
        y = self.forms[form](inputs, noise)
        return y.clone() if self.mode == "reduce-overhead" else y  # the graph's own memory is written over

    def make(self, stage: Stage) -> Compiled:
        """What the compiler is to work on, once it is called."""
        network, method = self.network, self.method

        def forward(inputs: list[Tensor], noise: Mapping[int, Tensor]) -> Tensor:
            y: Tensor = getattr(network, method)(*inputs, stage, lambda layer, height, width: noise[layer])
            return y

        # Compiled forms are counted by code object, over all trainings in a process, and of more than a few the rest
        # would run eager. Each has its own.
        forward.__code__ = forward.__code__.replace()
        # Whole or not at all, and for this size: sizes change with the stage alone.
        return torch.compile(forward, fullgraph=True, dynamic=False, mode=self.mode)

    def rehearse(self, made: Compiled, inputs: list[Tensor], noise: Mapping[int, Tensor]) -> None:
        """Forward and backward once, without a trace.

        The backward pass is otherwise compiled in the midst of the training's, where nothing could be repeated any
        more. Running statistics are put back.
        """
        kept = [buffer.clone() for buffer in self.network.buffers()]
        twins = [x.detach().requires_grad_(x.requires_grad) for x in inputs]
        try:
            y = made(twins, noise)
            if y.requires_grad:
                wanted = [x for x in (*self.network.parameters(), *twins) if x.requires_grad]
                torch.autograd.grad(y.sum(), wanted, allow_unused=True)
        finally:
            for buffer, before in zip(self.network.buffers(), kept, strict=True):
                buffer.data.copy_(before)  # unseen by autograd: a graph made before this one may have kept the buffer


def one_layout(x: Tensor) -> Tensor:
    """Real and generated images [N, C, H, W] with the same strides, so that one form serves both; the rest as it is."""
    if x.dim() != 4:
        return x
    x = x.contiguous(memory_format=torch.channels_last)
    return x.squeeze(1).unsqueeze(1) if x.shape[1] == 1 else x  # of one channel any stride counts as channels last


def _backward_without_autocast() -> Any:
    """Compiled gradients have the eager ones' precision: those of float32 parts are float32, too."""
    from torch._functorch import config

    return config.patch(backward_pass_autocast="off")
