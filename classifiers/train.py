"""Training of one classifier on one arm's data: the same steps and rules for every arm."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from classifiers.arms import ArmData
from classifiers.augment import augment
from classifiers.config import ClassifierConfig
from classifiers.evaluate import macro_auroc, youden_point
from classifiers.networks import build_network
from classifiers.trained import TrainedClassifier, probabilities
from classifiers.transforms import apply_transforms, build_transforms
from classifiers.weights import load_weights
from pipeline.dataset import ScanDataset
from pipeline.device import autocast, choose_device
from pipeline.records import LogFunction, MedaugError, Progress

WARM_UP = 0.1  # share of the steps over which the learning rate rises


def train_classifier(
    config: ClassifierConfig,
    arm: ArmData,
    validation: ScanDataset,
    seed: int,
    *,
    device: str = "auto",
    log: LogFunction | None = None,
    progress: Progress | None = None,
) -> TrainedClassifier:
    """Trains on an arm and keeps the weights that are best on the validation patients.

    Best is the highest macro AUROC, among equals the lowest log loss (mean over classes of the mean within the class).
    The test set plays no part. Weights, order and augmentation follow from the seed alone; on a CPU the result repeats
    bit by bit with the same number of threads.

    Args:
        config: the network and its training.
        arm: from :func:`classifiers.arms.build_arm`.
        validation: the validation split of the same dataset artifact.
        seed: of everything random.
        device: "auto", "cpu", "cuda" or "cuda:N".
        log: gets ``train.loss``, ``validation.loss`` and ``validation.auroc`` at every evaluation.
        progress: called after every step with (steps done, steps in all).

    Raises:
        MedaugError: images too small for the network, a validation set that is none, is empty or does not fit, or a
            loss that is not finite.
    """
    _check_validation(arm, validation)
    place = choose_device(device)
    network = build_network(config, arm.spec, torch.Generator().manual_seed(seed))
    if config.weights is not None:
        load_weights(network, config.weights)
    network.to(place)
    current = TrainedClassifier(network, config, arm.spec, arm.value_range, (), arm.arm, seed, 0, ())
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.steps + 1, pct_start=WARM_UP, cycle_momentum=False
    )

    order = sampling_order(arm.labels, config.steps * config.batch, config.sampling, seed)
    order = order.reshape(config.steps, config.batch)
    draws = torch.Generator().manual_seed(seed)
    composed = build_transforms(config.augmentation.transforms, seed) if config.augmentation.transforms else None
    images, labels = arm.images.to(place), torch.from_numpy(arm.labels).to(place)
    rows = torch.from_numpy(arm.rows).to(place)
    held_out = validation.tensor()

    best: tuple[float, float] | None = None
    best_weights: dict[str, torch.Tensor] = {}
    best_step, waited = 0, 0
    history: list[dict[str, float]] = []
    losses = torch.zeros((), device=place)  # summed on the device: reading each step's loss would stall it
    summed = 0
    for step in range(1, config.steps + 1):
        chosen = torch.from_numpy(order[step - 1]).to(place)
        batch = images[rows[chosen]]
        if arm.classical:
            # Never "if composed": Compose's length is that of a flattened copy, whose making seeds all transforms anew.
            batch = (
                augment(batch, config.augmentation, draws) if composed is None else apply_transforms(composed, batch)
            )
        losses += _step(network, optimiser, batch, labels[chosen], config.precision)
        summed += 1
        cycle.step()
        if progress is not None:
            progress(step, config.steps)
        if step % config.evaluate_every and step != config.steps:
            continue

        entry = {"train.loss": float(losses) / summed, **_validate(current, held_out, validation.labels)}
        losses.zero_()
        summed = 0
        if not np.isfinite([entry["train.loss"], entry["validation.loss"]]).all():
            raise MedaugError(
                f"classifier {config.name}, arm {arm.arm}, seed {seed}: the loss is not finite at step {step}; "
                f"expected finite values; lower learning_rate (now {config.learning_rate:g})"
            )
        history.append({"step": step, **entry})
        if log is not None:
            log(entry, step)
        score = (entry.get("validation.auroc", 0.0), -entry["validation.loss"])
        if best is None or score > best:
            best, best_step, waited = score, step, 0
            best_weights = copy.deepcopy(network.state_dict())
        else:
            waited += 1
            if config.patience is not None and waited >= config.patience:
                break

    network.load_state_dict(best_weights)
    network.eval()
    point = youden_point(validation.labels, probabilities(current, held_out))
    return replace(current, operating_point=point, best_step=best_step, history=tuple(history))


def sampling_order(labels: NDArray[np.int64], length: int, sampling: str, seed: int) -> NDArray[np.int64]:
    """The rows to show, one after the other.

    "natural" shows every row once before any comes again. "balanced" shows every class once before any comes again,
    and within a class every row once before any comes again.

    Args:
        labels: class of each row [M].
        length: how many to show.
        sampling: "natural" or "balanced".
        seed: of the order.

    Returns:
        int64 [length], indices into ``labels``.
    """
    rng = np.random.default_rng(seed)
    if sampling == "natural":
        return _rounds(np.arange(len(labels)), length, rng)
    turns = _rounds(np.unique(labels), length, rng)
    order = np.empty(length, np.int64)
    for label in np.unique(labels):
        places = np.flatnonzero(turns == label)
        order[places] = _rounds(np.flatnonzero(labels == label), len(places), rng)
    return order


def _rounds(items: NDArray[np.int64], length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Permutations of the items, one behind the other, cut to a length."""
    rounds = [rng.permutation(items) for _ in range(-(-length // len(items)))]
    return np.concatenate([np.empty(0, np.int64), *rounds])[:length]


def _step(
    network: nn.Module, optimiser: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor, precision: str
) -> torch.Tensor:
    network.train()
    with autocast(images.device, precision):
        logits = network(images.contiguous(memory_format=torch.channels_last))
    loss = F.cross_entropy(logits.float(), labels)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return loss.detach()


def _validate(current: TrainedClassifier, images: torch.Tensor, labels: NDArray[np.int64]) -> dict[str, float]:
    current.network.eval()
    answers = probabilities(current, images)
    loss = -np.log(np.clip(answers[np.arange(len(labels)), labels], 1e-12, None))
    values = {"validation.loss": float(np.mean([loss[labels == k].mean() for k in np.unique(labels)]))}
    auroc = macro_auroc(labels, answers) if np.isfinite(answers).all() else None
    if auroc is not None:
        values["validation.auroc"] = auroc
    return values


def _check_validation(arm: ArmData, validation: ScanDataset) -> None:
    where = f"validation data {validation.artifact.path}"
    if validation.split != "validation" or validation.synthetic:
        kind = "synthetic images" if validation.synthetic else f"split {validation.split!r}"
        raise MedaugError(f"{where}: is {kind}, expected the validation split of a dataset artifact")
    if len(validation) == 0:
        raise MedaugError(f"{where}: is empty, expected at least one scan; ingest with a larger validation share")
    if (validation.spec, validation.value_range) != (arm.spec, arm.value_range):
        raise MedaugError(
            f"{where}: {validation.spec} in {validation.value_range}, expected {arm.spec} in {arm.value_range}; "
            "take both splits from one artifact"
        )
