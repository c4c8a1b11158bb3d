"""Checks before anything starts: disk, folders, addresses. Each failure is one line and exit code 2."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import tempfile
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse
from urllib.request import urlopen

import torch

from flows.configuration import ExperimentConfig
from flows.runner import cluster_address
from flows.tracking import tracking_uri
from medgan.extractors import load_extractor
from medgan.registry import build
from pipeline.records import ImageSpec, MedaugError

WAIT_SECONDS = 10.0
TRAINING_STATES = 5  # two checkpoints, two to go back to, and one in the making
BYTES_PER_PARAMETER = 4 * 4  # weights, two Adam moments, the average


def check_output(runs: Path) -> None:
    """The runs folder can be made and written.

    Raises:
        MedaugError: it cannot.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=runs) as probe:
            probe.write(b"medaug")
    except OSError as error:
        raise MedaugError(
            f"runs folder {runs}: not writable ({error.strerror}); choose another with --runs DIR"
        ) from None


def check_disk(config: ExperimentConfig, parameters: int, scans: int = 0) -> None:
    """Enough free disk for checkpoints, generators, synthetic sets and tracking.

    Args:
        config: the experiment.
        parameters: of the largest generator and discriminator together.
        scans: number of scans, once known.

    Raises:
        MedaugError: too little; names need, free and remedy.
    """
    height, width = config.data.size
    image = height * width * config.data.channels * 2
    parts = sum(fraction < 1.0 for fraction in config.classification.fractions)  # each trains every GAN anew
    trainings = len(config.gans) * len(config.gan_seeds) * (1 + parts)
    training = parameters * BYTES_PER_PARAMETER * (TRAINING_STATES + trainings * 2)
    images = image * (scans + trainings * config.synthesis.per_class * 16)
    need = int(1.2 * (training + images)) + 200 * 2**20
    free = shutil.disk_usage(config.runs).free
    if free < need:
        raise MedaugError(
            f"runs folder {config.runs}: {free / 2**30:.1f} GiB free, this run needs about {need / 2**30:.1f} GiB; "
            "free some or choose another disk with --runs DIR"
        )


def check_address(what: str, url: str, health: str, remedy: str) -> None:
    """An HTTP service answers within :data:`WAIT_SECONDS`.

    Raises:
        MedaugError: it does not; says which.
    """
    try:
        with urlopen(url.rstrip("/") + health, timeout=WAIT_SECONDS):
            return
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise MedaugError(f"{what} at {url} does not answer within {WAIT_SECONDS:.0f} s ({reason}); {remedy}") from None


def check_services(config: ExperimentConfig) -> None:
    """MLflow's and Prefect's addresses answer, where addresses are configured."""
    uri = tracking_uri(config.tracking.uri, config.runs)
    if urlparse(uri).scheme in ("http", "https"):
        check_address("MLflow", uri, "/health", "start it, or change tracking.uri or MLFLOW_TRACKING_URI")
    prefect = os.environ.get("PREFECT_API_URL")
    if prefect:
        check_address("Prefect", prefect, "/health", "start it, or change or unset PREFECT_API_URL")


def check_runner(config: ExperimentConfig) -> None:
    """Ray is installed and its cluster answers, where they are asked for.

    Raises:
        MedaugError: it is not, or does not.
    """
    if config.runner.kind != "ray":
        return
    if not all(importlib.util.find_spec(package) for package in ("ray", "prefect_ray")):
        raise MedaugError("runner.kind: ray needs packages that are not installed; run pip install 'medaug[ray]'")
    address = cluster_address(config.runner)
    if address is None:
        return
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), WAIT_SECONDS):
            return
    except (OSError, ValueError, OverflowError) as error:
        raise MedaugError(
            f"Ray at {address} does not answer within {WAIT_SECONDS:.0f} s ({error}); start it with "
            "ray start --head, or change runner.address or RAY_ADDRESS (HOST:PORT)"
        ) from None


def check_labels(config: ExperimentConfig) -> None:
    """GANs whose images train classifiers have learned the classes.

    Raises:
        MedaugError: one has not.
    """
    arms = [arm for arm in ("D", "E") if arm in config.classification.arms]
    if not config.classifiers or not arms:
        return
    for gan in config.gans:
        if "none" in (gan.conditioning.generator, gan.conditioning.discriminator):
            raise MedaugError(
                f"gans: {gan.name} ignores the class, so its images have no labels by which the classifiers of arm "
                f"{' and '.join(arms)} could learn; expected a conditional GAN (cgan is the same network), or "
                f"classification.arms without {' and '.join(arms)}"
            )


def check_networks(config: ExperimentConfig, classes: tuple[str, ...] = ("a", "b")) -> int:
    """Every configured GAN can make the configured size.

    Returns:
        Parameters of the largest generator and discriminator together, for :func:`check_disk`.

    Raises:
        MedaugError: unknown network, or a size it cannot make.
    """
    height, width = config.data.size
    spec = ImageSpec(config.data.channels, height, width, classes)
    largest = 0
    for gan in config.gans:
        with torch.device("meta"):  # shapes alone: no memory, no time
            networks = build(gan, spec)
        trained = (*networks.generator.parameters(), *networks.discriminator.parameters())
        largest = max(largest, sum(weights.numel() for weights in trained))
    return largest


def check_extractor_names(config: ExperimentConfig, classes: tuple[str, ...]) -> None:
    """No extractor is named like a class: ``precision.x`` would be both.

    Raises:
        MedaugError: one is.
    """
    for extractor in config.extractors:
        if extractor.name in classes:
            raise MedaugError(f"extractors: {extractor.name!r} is a class too; give the extractor another name")


def check_extractors(config: ExperimentConfig) -> None:
    """Every further feature extractor is there, loads, and takes images of the configured size.

    Raises:
        MedaugError: the first that does not.
    """
    images = torch.zeros(2, config.data.channels, *config.data.size)
    for extractor in config.extractors:
        load_extractor(extractor, "cpu").features(images)
