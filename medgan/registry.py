"""Architectures by name. A new one is a file in ``networks/``, a line here and a YAML in ``configs/gan``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from medgan.options import nearest
from medgan.sizes import Pyramid
from pipeline.records import ImageSpec, MedaugError

if TYPE_CHECKING:
    from medgan.architecture import Architecture
    from medgan.config import GanConfig

NETWORKS = {
    "mlp": "medgan.networks.mlp:Mlp",
    "dcgan": "medgan.networks.dcgan:Dcgan",
    "pggan": "medgan.networks.pggan:Pggan",
    "stylegan": "medgan.networks.stylegan:StyleGan",
    "stylegan2": "medgan.networks.stylegan2:StyleGan2",
}


def architecture_class(name: str) -> type[Architecture]:
    """The class behind a name.

    Raises:
        MedaugError: no such name; the nearest one is named.
    """
    if name not in NETWORKS:
        raise MedaugError(f"network: unknown {name!r}{nearest(name, NETWORKS)}")
    module, _, attribute = NETWORKS[name].partition(":")
    found: type[Architecture] = getattr(importlib.import_module(module), attribute)
    return found


def build(config: GanConfig, spec: ImageSpec) -> Architecture:
    """Both networks of a configuration, weights not drawn yet (:meth:`Architecture.initialise`)."""
    check(config, spec)
    return architecture_class(config.network)(config, spec)


def check(config: GanConfig, spec: ImageSpec) -> None:
    """Refuses before any training what no training could do.

    Raises:
        MedaugError: an unknown network, a size that no network can make, or more than 4 channels.
    """
    architecture_class(config.network)
    if not 1 <= spec.channels <= 4:
        raise MedaugError(f"{spec.channels} channels: expected 1 to 4; choose channels at ingest")
    if not spec.classes:
        raise MedaugError("no classes: expected at least one class name; label the scans at ingest")
    Pyramid.of(spec.height, spec.width)
