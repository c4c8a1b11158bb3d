"""Networks whose features fidelity is measured by, besides the domain classifier: named, pinned by hash, pure torch.

* ``inception``: the network of published FIDs (:mod:`medgan.inception`), its weights from a path, or downloaded where
  the configuration says so; the standard file alone may go under the name "inception";
* ``torchscript``: a file of ``torch.jit.save``;
* ``hub``: a local repository with a ``hubconf.py``. Its code is run: name only what you trust.

The name is part of every metric's. The identity tells what made the features: weights, code, preparation of images.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medgan.inception import build_inception
from medgan.metrics import fid
from medgan.metrics.features import DOMAIN
from pipeline.device import choose_device, place
from pipeline.records import MedaugError
from pipeline.store import file_sha256

Precision = Literal["float32", "bfloat16"]

INCEPTION = "inception"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)
"""95.6 MB; torch-fidelity's ``weights-inception-2015-12-05-6726825d.pth`` has the same bytes."""

DOWNLOAD = "download"
BATCH = 64
LARGEST_CHANGE = 0.005
"""bfloat16 is refused where it changes FID by more (:func:`bfloat16_change`)."""
TRIAL = 1000
UNIDENTIFYING = ("name", "precision", "path", "weights")
"""What changes no feature by itself: the files' contents count, not where they lie."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or name == DOMAIN:
        raise ValueError(
            f"name {name!r}: expected letters, digits, - and _, and not {DOMAIN!r}; it becomes part of metrics' names"
        )


@dataclass(frozen=True)
class InceptionConfig:
    """FID's Inception network.

    Attributes:
        weights: path of pytorch-fid's or torch-fidelity's file, or "download": about 96 MB into torch's hub folder.
        name: another one than "inception" allows other weights.
        precision: "bfloat16" is used where the hardware has it and FID is shown not to change.
        kind: always "inception".
    """

    weights: str
    name: str = INCEPTION
    precision: Precision = "float32"
    kind: Literal["inception"] = "inception"

    def __post_init__(self) -> None:
        _check_name(self.name)


@dataclass(frozen=True)
class NetworkConfig:
    """A network that needs to be told how it wants its images.

    Attributes:
        name: part of metrics' names.
        path: file or folder.
        channels: what the network takes; 3 repeats a grey image's channel. None: as the images are.
        size: (height, width) to which images are resized, bilinear and antialiased. None: as the images are.
        mean: taken from images in [0, 1], for each channel or for all.
        std: by which they are divided then; 0.5 and 0.5 give [-1, 1].
        precision: as in :class:`InceptionConfig`.
    """

    name: str
    path: str
    channels: int | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.name == INCEPTION:
            raise ValueError(
                f"name {self.name!r}: stands for kind inception with its published weights; choose another"
            )
        if min(self.std, default=0.0) <= 0.0 or not self.mean:
            raise ValueError(f"mean {self.mean}, std {self.std}: expected numbers for each channel or one, std above 0")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size {self.size}: expected height and width of at least 1")


@dataclass(frozen=True)
class TorchScriptConfig(NetworkConfig):
    """A network saved by ``torch.jit.save``; ``path`` is its file. It gives [N, D], or [N, D, h, w], then averaged."""

    kind: Literal["torchscript"] = "torchscript"


@dataclass(frozen=True)
class HubConfig(NetworkConfig):
    """A network from a local torch.hub repository; ``path`` is the folder with ``hubconf.py``.

    Attributes:
        entry: the function in ``hubconf.py`` that gives the network.
        arguments: its keyword arguments, e.g. a weights file's path.
    """

    entry: str = "model"
    arguments: dict[str, Any] = field(default_factory=dict)
    kind: Literal["hub"] = "hub"


ExtractorConfig = InceptionConfig | TorchScriptConfig | HubConfig


@dataclass(frozen=True)
class Extractor:
    """A network that turns images into feature vectors.

    Attributes:
        name: part of metrics' names.
        identity: hash of weights, code and preparation; equal features, equal identity.
        network: float32 [N, C, H, W] in [-1, 1] to [N, D] or [N, D, h, w], on its device.
        device: where it computes.
    """

    name: str
    identity: str
    network: Callable[[Tensor], Tensor]
    device: torch.device

    def features(self, images: Tensor, precision: Precision = "float32", batch: int = BATCH) -> NDArray[np.float32]:
        """Feature vectors.

        Args:
            images: float32 [N, C, H, W] in [-1, 1].
            precision: of the convolutions.
            batch: images at a time.

        Returns:
            float32 [N, D].

        Raises:
            MedaugError: no images, or images or an output that do not fit.
        """
        if images.ndim != 4 or len(images) == 0:
            raise MedaugError(f"extractor {self.name}: images {tuple(images.shape)}, expected [N, C, H, W], N above 0")
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16")
        parts = []
        with torch.inference_mode(), autocast:
            for some in images.split(batch):
                try:
                    found = self.network(some.to(self.device))
                except RuntimeError as error:  # TorchScript and foreign code tell misfits so
                    raise MedaugError(
                        f"extractor {self.name}: fails on images {tuple(some.shape)}: {str(error).strip()[-200:]!r}; "
                        "check channels, size, mean and std"
                    ) from None
                if not isinstance(found, Tensor) or found.ndim not in (2, 4):
                    given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                    raise MedaugError(f"extractor {self.name}: gives {given}, expected [N, D] or [N, D, h, w]")
                parts.append((found.float().mean(dim=(2, 3)) if found.ndim == 4 else found.float()).cpu())
        return torch.cat(parts).numpy()


def extractor_identity(config: ExtractorConfig) -> str:
    """Hash of all that the features depend on, but precision: files and preparation; 16 hexadecimal digits.

    Raises:
        MedaugError: a file is missing, or is not what its name promises.
    """
    return _identity(config, inception_weights(config) if isinstance(config, InceptionConfig) else Path(config.path))


def load_extractor(config: ExtractorConfig, device: str = "auto") -> Extractor:
    """The extractor that a configuration describes.

    Args:
        config: one of the three.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        MedaugError: a file is missing, damaged, or not what its name promises.
    """
    where = choose_device(device)
    network: nn.Module
    if isinstance(config, InceptionConfig):
        path = inception_weights(config)
        try:
            network = _AsBytes(build_inception(torch.load(path, map_location="cpu", weights_only=True)))
        except (RuntimeError, ValueError, TypeError, EOFError, UnpicklingError) as error:
            raise MedaugError(f"extractor {config.name}: {path}: {_reason(error)}") from None
    else:
        path = Path(config.path)
        try:
            if isinstance(config, TorchScriptConfig):
                loaded = torch.jit.load(str(path), map_location="cpu")
            else:
                loaded = torch.hub.load(str(path), config.entry, source="local", **config.arguments)
        except (RuntimeError, ValueError, TypeError, ImportError, OSError) as error:
            raise MedaugError(f"extractor {config.name}: {path} does not load ({_reason(error)})") from None
        network = _Prepared(loaded, config)
    return Extractor(config.name, _identity(config, path), place(network, where).eval(), where)


def bfloat16_change(extractor: Extractor, images: Tensor) -> float:
    """How much bfloat16 changes the FID between two halves of real images, as a share of it.

    Halves of one set are nearer to each other than any generator's images are: if this distance stays, others do.

    Args:
        extractor: the network.
        images: float32 [N, C, H, W] in [-1, 1], N at least 4; the first :data:`TRIAL` are used.
    """
    some = images[:TRIAL]
    exact, rounded = (
        fid.distance(found[::2], found[1::2])
        for found in (extractor.features(some, "float32"), extractor.features(some, "bfloat16"))
    )
    return abs(rounded - exact) / exact if exact > 0.0 else float("inf")


def inception_weights(config: InceptionConfig) -> Path:
    """The weights' file, downloaded where "download" is configured and it is not there yet.

    Raises:
        MedaugError: no such file, no download, or other bytes than the published ones under the name "inception".
    """
    if config.weights == DOWNLOAD:
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(INCEPTION_URL).name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:  # under another name until it is whole and its hash is right
                torch.hub.download_url_to_file(INCEPTION_URL, str(path), INCEPTION_SHA256, progress=False)
            except (OSError, RuntimeError) as error:  # no network; other bytes
                raise MedaugError(
                    f"extractor {config.name}: no download from {INCEPTION_URL} ({_reason(error)}); "
                    "fetch the file elsewhere and give its path as weights"
                ) from None
    else:
        path = Path(config.weights)
    if not path.is_file():
        raise MedaugError(
            f"extractor {config.name}: {path}: no such file; give pytorch-fid's or torch-fidelity's weights"
        )
    if config.name == INCEPTION and (found := file_sha256(path)) != INCEPTION_SHA256:
        raise MedaugError(
            f"extractor {config.name}: {path} has SHA-256 {found[:8]}…, expected {INCEPTION_SHA256[:8]}…; "
            "give the published file, or these weights another name"
        )
    return path


def _identity(config: ExtractorConfig, path: Path) -> str:
    """Hash of files and preparation."""
    if isinstance(config, HubConfig):
        if not (path / "hubconf.py").is_file():
            raise MedaugError(
                f"extractor {config.name}: {path}: no hubconf.py there; give a torch.hub repository's folder"
            )
        given = [Path(value) for value in config.arguments.values() if isinstance(value, str)]
        files = [*_visible_files(path), *(file for file in given if file.is_file())]
    elif not path.is_file():
        raise MedaugError(f"extractor {config.name}: {path}: no such file; give a file of torch.jit.save")
    else:
        files = [path]
    prepared = {key: value for key, value in asdict(config).items() if key not in UNIDENTIFYING}
    text = json.dumps([prepared, [file_sha256(file) for file in files]], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _visible_files(folder: Path) -> list[Path]:
    hidden = (".", "__pycache__")
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(hidden) for part in file.relative_to(folder).parts)
    )


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[-200:]


def _channels(images: Tensor, wanted: int | None) -> Tensor:
    """Grey images to three equal channels where the network wants them; nothing else is guessed."""
    if wanted is None or images.shape[1] == wanted:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, wanted, -1, -1)
    raise MedaugError(f"extractor: images of {images.shape[1]} channels, expected {wanted}, or 1 to be repeated")


class _AsBytes(nn.Module):
    """Images in [-1, 1] as the 256 levels and three channels of the picture files that published FIDs were taken of."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        levels = ((images + 1.0) * 127.5).round().clamp(0.0, 255.0)
        found: Tensor = self.network(_channels(levels, 3))
        return found


class _Prepared(nn.Module):
    """Images in [-1, 1] as a network wants them."""

    def __init__(self, network: nn.Module, config: NetworkConfig):
        super().__init__()
        self.network = network
        self.config = config

    def forward(self, images: Tensor) -> Tensor:
        x = _channels(images, self.config.channels)
        if self.config.size is not None:
            x = F.interpolate(x, self.config.size, mode="bilinear", antialias=True)
        mean, std = (x.new_tensor(values)[:, None, None] for values in (self.config.mean, self.config.std))
        found: Tensor = self.network(((x + 1.0) / 2.0 - mean) / std)
        return found
