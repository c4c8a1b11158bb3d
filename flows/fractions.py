"""Fractions of the training patients, each with extractor, GANs and synthetic sets of its own.

A GAN that learnt from all training patients carries their images into an arm that is meant to have a tenth of them: its
gain would be theirs. So below 1 nothing in an arm comes from outside the fraction, and the price is one training for
each GAN, seed and fraction.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from flows.configuration import Filter
from flows.context import Context
from flows.features import train_extractor
from flows.filters import filter_synthetic
from flows.grid import Drawn, Ground
from flows.settle import settle
from flows.synthesize import draw_synthetic
from flows.train_gan import train_gan
from pipeline.fraction import take_fraction
from pipeline.store import Artifact

Training = tuple[str, int]
"""A GAN's name and seed."""
Filtered = tuple[str, int, float, Filter]
"""The same with the fraction of the training patients and the filter of the images."""


@task(name="extractor of a fraction", tags=["extractor"], cache_policy=NO_CACHE)
def prepare_fraction(context: Context, dataset: Path, fraction: float) -> tuple[Path, Path]:
    """The dataset with a fraction of its training patients, and the feature extractor that knows no others."""
    part = take_fraction(dataset, fraction, context.config.seed, context.store).path
    return part, train_extractor.fn(context, part)


def prepare_grounds(
    context: Context,
    dataset: Path,
    extractor: Path,
    synthetic: Mapping[Training, Path],
    failures: list[str],
) -> list[Ground]:
    """Everything that the classifiers' grid needs, for each fraction of the training patients.

    Args:
        context: the experiment.
        dataset: the whole dataset artifact.
        extractor: trained on all its training patients.
        synthetic: what the GANs that learnt from all training patients have drawn.
        failures: gets one line for each task that failed; what depended on it is left out.
    """
    settings = context.config.classification
    parts = [fraction for fraction in settings.fractions if fraction < 1.0]
    prepared: dict[float, tuple[Path, Path]] = settle(
        {fraction: prepare_fraction.submit(context, dataset, fraction) for fraction in parts},
        lambda fraction: f"preparing {percent(fraction)}",
        failures,
    )
    drawn = _draw_from_fractions(context, prepared, failures) if settings.needs_gan else {}
    if 1.0 in settings.fractions:
        prepared[1.0] = (dataset, extractor)
        drawn |= {(gan, seed, 1.0): path for (gan, seed), path in synthetic.items()}
    filtering: dict[Filtered, PrefectFuture[Path]] = {
        (*key, kind): filter_synthetic.submit(context, *prepared[key[2]], path, kind)
        for (key, path), kind in product(drawn.items(), settings.filters)
        if kind != "none"
    }
    chosen = settle(
        filtering,
        lambda key: f"filter {key[3]} of {key[0]} (seed {key[1]}, {percent(key[2])})",
        failures,
    )
    if "none" in settings.filters:
        chosen |= {(*key, "none"): path for key, path in drawn.items()}
    grounds = []
    for fraction in (one for one in settings.fractions if one in prepared):
        sets: dict[Drawn, Path] = {
            (gan, seed, kind): path for (gan, seed, of, kind), path in chosen.items() if of == fraction
        }
        grounds.append(Ground(fraction if fraction < 1.0 else None, prepared[fraction][0], sets))
    return grounds


def percent(fraction: float) -> str:
    """``10 % of the training patients``."""
    return f"{fraction * 100:g} % of the training patients"


def _draw_from_fractions(
    context: Context, prepared: Mapping[float, tuple[Path, Path]], failures: list[str]
) -> dict[tuple[str, int, float], Path]:
    config = context.config
    trained = settle(
        {
            (gan.name, seed, fraction): train_gan.submit(context, *prepared[fraction], gan, seed)
            for fraction, gan, seed in product(prepared, config.gans, config.gan_seeds)
        },
        lambda key: f"training {key[0]} (seed {key[1]}, {percent(key[2])})",
        failures,
    )
    usable = {}
    for key, path in trained.items():
        meta = Artifact.open(path).meta
        if meta["status"] == "done":
            usable[key] = path
        else:
            failures.append(f"training {key[0]} (seed {key[1]}, {percent(key[2])}) {meta['status']}: {meta['reason']}")
    return settle(
        {key: draw_synthetic.submit(context, prepared[key[2]][0], path) for key, path in usable.items()},
        lambda key: f"drawing from {key[0]} (seed {key[1]}, {percent(key[2])})",
        failures,
    )
