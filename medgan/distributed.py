"""One training on several GPUs, started by torchrun; needs neither Prefect nor MONAI.

    torchrun --nproc_per_node=4 -m medgan.distributed DATASET_ARTIFACT CONFIG.json --seed 0 --out OUT --scratch SCRATCH

One process a GPU (NCCL), or several on a CPU (gloo). They compute what one process with the whole batch would; see
:mod:`medgan.ranks`. The first process writes and the others only read, so all of them must see ``SCRATCH``. If one dies
all end, with exit code 1 and one line; the same command then goes on from ``SCRATCH``, with as many processes as it is
given. ``OUT`` is what :func:`medgan.load` opens; its ``generator.json`` names the dataset artifact by its digest, so
that :class:`medgan.SyntheticDataset` and exports can tell whether it may stand beside some real data. It is no artifact
of a store (no manifest).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
import torch.distributed as dist

from medgan import ranks
from medgan.checkpoint import drop_checkpoints
from medgan.config import GanConfig
from medgan.train import train
from pipeline.dataset import ScanDataset
from pipeline.device import choose_device
from pipeline.records import MedaugError

PATIENCE = timedelta(hours=1)
"""How long a process waits for another that is alive and silent."""

REPORTS = 20
"""Lines of progress in a whole training."""


class StoppedError(BaseException):
    """The launcher, or a person, asked this process to end; not to be taken for a failure of what it interrupts."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, or goes on training.

    Returns:
        exit code: 0 done (or diverged, which is a result), 1 stopped on the way, 2 wrong input.
    """
    given = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, stop)
    place = f"process {rank_by_launcher()} of {os.environ.get('WORLD_SIZE', 1)}"
    resume = f"the same command goes on from {given.scratch}"
    try:
        with processes(given.device) as device:
            return end(run(given, device), 0)
    except MedaugError as error:  # it may be wrong in one process alone: each says so, the others by their names
        line = " ".join(str(error).split())
        return end(line if rank_by_launcher() == 0 else f"{place}: {line}", 2)
    except ranks.LostError as error:
        return end(f"{place} has lost another one ({error}); {resume}", 1)
    except StoppedError:
        return end(f"{place} was told to stop; {resume}", 1)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="medgan.distributed", description="Trains one GAN, on several GPUs if asked.")
    made.add_argument("dataset", type=Path, help="folder of a dataset artifact")
    made.add_argument("config", type=Path, help="JSON file of a GAN's configuration, as in a generator.json's 'config'")
    made.add_argument("--seed", type=int, default=0, help="of weights, order and latents")
    made.add_argument("--out", type=Path, required=True, help="folder to make; must not exist")
    made.add_argument("--scratch", type=Path, required=True, help="folder of checkpoints")
    made.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )
    return made


@contextmanager
def processes(device: str) -> Iterator[str]:
    """Joins the processes that torchrun started, if it did; gives this one's device."""
    if "RANK" not in os.environ:
        yield device
        return
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(choose_device(device))
    dist.init_process_group("gloo" if device == "cpu" else "nccl", timeout=PATIENCE)
    yield device  # the group is never destroyed: see leave()


def run(given: argparse.Namespace, device: str) -> str:
    """Trains in this process and its siblings.

    Returns:
        what to say at the end; "" in all but the first process.

    Raises:
        MedaugError: input that no training could use.
    """
    if given.out.exists():
        raise MedaugError(f"--out {given.out}: exists; expected a folder to make, remove it or choose another")
    config = read_config(given.config)
    data = ScanDataset(given.dataset, "train")
    draft: Path = given.out.with_name(f".{given.out.name}.draft")  # whatever has the name OUT is whole
    if ranks.first():
        shutil.rmtree(draft, ignore_errors=True)  # of a process killed while it wrote
    shown = 0

    def progress(done: int, images: int) -> None:
        nonlocal shown
        if done * REPORTS >= (shown + 1) * images:
            shown = done * REPORTS // images
            say(f"{done} of {images} images")

    result = train(
        config,
        data,
        given.seed,
        given.scratch,
        draft,
        device=device,
        log=ignore,
        progress=progress if ranks.first() else ignore,
    )
    if ranks.first():
        draft.rename(given.out)
        drop_checkpoints(given.scratch, after=-1)
    with suppress(ranks.LostError):  # no process leaves before all is written; after that it may
        ranks.told(0)
    if not ranks.first():
        return ""
    reason = f" ({result.reason})" if result.reason else ""
    return f"{result.status}{reason} after {result.images_seen} images: {given.out}"


def read_config(path: Path) -> GanConfig:
    """A configuration as JSON.

    Raises:
        MedaugError: not readable, or not a configuration.
    """
    try:
        return GanConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, AttributeError) as error:
        text = " ".join(str(error).split())
        raise MedaugError(f"{path}: not a GAN's configuration as JSON ({type(error).__name__}: {text})") from None


def rank_by_launcher() -> int:
    """This process's number before any process group is joined."""
    return int(os.environ.get("RANK", "0"))


def stop(number: int, frame: FrameType | None) -> None:
    """Signal handler."""
    raise StoppedError


def end(line: str, code: int) -> int:
    """Says one line, or none, undisturbed by the launcher's signal; hands through the exit code."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if line:
        say(line)
    return code


def say(line: str) -> None:
    """To people, in one piece: processes share the stream."""
    sys.stderr.write(f"medgan.distributed: {line}\n")
    sys.stderr.flush()


def ignore(*_: object) -> None:
    """For logs, and for the progress of all but the first process."""


def leave(code: int) -> NoReturn:
    """Ends this process without the interpreter's teardown, in which threads of torch were seen to abort it."""
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
