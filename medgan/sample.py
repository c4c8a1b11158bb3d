"""Generators that can be drawn from, and synthetic artifacts made with them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from medgan import registry
from medgan.config import GanConfig
from medgan.contract import Generator, NoiseSource
from medgan.layers import double
from medgan.seeds import seeded
from medgan.sizes import Pyramid, Stage
from medgan.styles import StyleGenerator
from pipeline.codes import encode
from pipeline.dataset import IMAGES, dataset_meta, write_index
from pipeline.device import choose_device, place
from pipeline.records import SPLITS, ImageSpec, MedaugError, Progress, ValueRange
from pipeline.store import MANIFEST, Artifact

WEIGHTS, CARD = "generator.safetensors", "generator.json"
FORMAT = 1
BATCH_PIXELS = 1 << 17
"""Pixels drawn at a time: 128 images of 32x32, 2 of 256x256."""


class LoadedGenerator:
    """A trained generator.

    Attributes:
        config: what it was trained with.
        spec: channels, size and classes of its images.
        value_range: the physical values of -1 and +1.
        network: the generator itself, in eval mode.
        stage: size and fade it has reached.
        device: where it runs.
    """

    def __init__(
        self,
        config: GanConfig,
        spec: ImageSpec,
        value_range: ValueRange,
        network: Generator,
        stage: Stage,
        device: torch.device,
    ):
        self.config = config
        self.spec = spec
        self.value_range = value_range
        self.network = network
        self.stage = stage
        self.device = device
        self.pyramid = Pyramid.of(spec.height, spec.width)

    @property
    def has_w(self) -> bool:
        """Whether there is an intermediate latent w, and so truncation and mixing."""
        return isinstance(self.network, StyleGenerator)

    def sample(
        self, labels: Sequence[int] | Tensor, seed: int = 0, truncation: float = 1.0, *, start: int = 0
    ) -> Tensor:
        """Draws one image for each label.

        Latent and noise of image i follow from (seed, start + i) alone, so the same image comes whatever is drawn
        beside it and on whatever device.

        Args:
            labels: class indices.
            seed: which series of images.
            truncation: ψ of StyleGAN, 0 to 1; 1 leaves w alone, 0 gives each class's mean image.
            start: where in the series to begin.

        Returns:
            float32 [N, C, H, W] in [-1, 1], on the CPU.

        Raises:
            MedaugError: a label that is no class, truncation out of range, or of a generator without w.
        """
        classes = self.check_labels(labels)
        if not 0.0 <= truncation <= 1.0:
            raise MedaugError(f"truncation {truncation}: expected 0 to 1 (1 leaves the images alone)")
        if truncation != 1.0 and not self.has_w:
            raise MedaugError(f"truncation {truncation}: {self.config.network} has no w to truncate; expected 1.0")
        drawn = []
        for begin in range(0, len(classes), self.batch):
            part = classes[begin : begin + self.batch]
            z, noise = self.draw_latents([seeded(seed, start + begin + i) for i in range(len(part))])
            drawn.append(self._draw(z, part, noise, truncation))
        return torch.cat(drawn) if drawn else torch.empty(0, self.spec.channels, self.spec.height, self.spec.width)

    def interpolate(self, label: int, steps: int, seed: int = 0) -> Tensor:
        """A smooth walk through the latent space of one class, noise held still.

        The walk goes through a new latent every 8 steps: along great circles in z, along straight lines in w where
        there is one.

        Returns:
            float32 [steps, C, H, W] in [-1, 1], on the CPU.
        """
        anchors = max(2, math.ceil(steps / 8) + 1)
        z, noise = self.draw_latents([seeded(seed, "walk", i) for i in range(anchors)])
        labels = self.check_labels([label] * anchors)
        with torch.inference_mode():
            w = self.network.mapping(z, labels, self.stage.label) if isinstance(self.network, StyleGenerator) else None
        frames = []
        for step in range(steps):
            place = step * (anchors - 1) / max(steps - 1, 1)
            i = min(int(place), anchors - 2)
            t, still = place - i, [layer[:1] for layer in noise]
            if w is not None:
                frames.append(self._draw_w(torch.lerp(w[i : i + 1], w[i + 1 : i + 2], t), labels[:1], still, 1.0))
            else:
                frames.append(self._draw(slerp(z[i : i + 1], z[i + 1 : i + 2], t), labels[:1], still, 1.0))
        return torch.cat(frames) if frames else torch.empty(0, self.spec.channels, self.spec.height, self.spec.width)

    @property
    def batch(self) -> int:
        """Images drawn at a time."""
        return max(1, min(256, BATCH_PIXELS // (self.spec.height * self.spec.width)))

    def check_labels(self, labels: Sequence[int] | Tensor) -> Tensor:
        """Class indices as int64 [N] on the device.

        Raises:
            MedaugError: one is out of range or no whole number's type.
        """
        given = torch.as_tensor(labels).reshape(-1)
        if len(given) and (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool):
            raise MedaugError(f"labels of type {given.dtype}: expected whole numbers, the classes' indices")
        classes = given.to(torch.int64)
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < len(self.spec.classes):
            raise MedaugError(
                f"labels {int(classes.min())} to {int(classes.max())}: expected 0 to {len(self.spec.classes) - 1} "
                f"({', '.join(self.spec.classes)})"
            )
        return classes.to(self.device)

    def draw_latents(self, rngs: Sequence[torch.Generator]) -> tuple[Tensor, list[Tensor]]:
        """Latents [N, latent] and each layer's noise [N, 1, h, w], image i from generator i."""
        z = torch.stack([torch.randn(self.network.latent, generator=rng) for rng in rngs])
        noise = [
            torch.stack([torch.randn(1, h, w, generator=rng) for rng in rngs]).to(self.device)
            for h, w in self.network.noise_layers(self.stage)
        ]
        return z.to(self.device), noise

    def _draw(self, z: Tensor, labels: Tensor, noise: Sequence[Tensor], truncation: float) -> Tensor:
        with torch.inference_mode():
            if isinstance(self.network, StyleGenerator):
                return self._draw_w(self.network.mapping(z, labels, self.stage.label), labels, noise, truncation)
            return self._finish(self.render_z(z, labels, noise))

    def _draw_w(self, w: Tensor, labels: Tensor, noise: Sequence[Tensor], truncation: float) -> Tensor:
        assert isinstance(self.network, StyleGenerator)
        with torch.inference_mode():
            ws = self.network.truncate(w, labels, self.stage, truncation)
            return self._finish(self.render(ws, noise))

    def render(self, styles: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Images of styles [N, layers, width], not clamped and still on the device: differentiable."""
        assert isinstance(self.network, StyleGenerator)
        return self._full_size(self.network.synthesis(styles, self.stage, held(noise)))

    def render_z(self, z: Tensor, labels: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Images of latents [N, latent]; see :meth:`render`."""
        return self._full_size(self.network(z, labels, self.stage, held(noise)))

    def _full_size(self, images: Tensor) -> Tensor:
        for _ in range(self.pyramid.levels - self.stage.level):  # a network that has not grown up yet
            images = double(images)
        return images

    def _finish(self, images: Tensor) -> Tensor:
        return images.float().clamp(-1.0, 1.0).cpu().contiguous()

    def save(self, folder: Path, **extra: Any) -> None:
        """Writes weights and card; ``extra`` is JSON data for the card."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        card = {
            "format": FORMAT,
            "config": dataclasses.asdict(self.config),
            "spec": dataclasses.asdict(self.spec),
            "value_range": dataclasses.asdict(self.value_range),
            "stage": dataclasses.asdict(self.stage),
            **extra,
        }
        (folder / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def held(noise: Sequence[Tensor]) -> NoiseSource:
    """A noise source that hands out given tensors, layer by layer."""

    def source(layer: int, height: int, width: int) -> Tensor:
        assert noise[layer].shape[2:] == (height, width), f"noise of layer {layer}: {tuple(noise[layer].shape)}"
        return noise[layer]

    return source


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """Between two normal latents along a great circle, lengths interpolated (White 2016).

    Args:
        a: [N, latent].
        b: [N, latent].
        t: share of the way, or one for each, [N, 1].
    """
    length_a, length_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    angle = torch.acos(((a / length_a) * (b / length_b)).sum(dim=1, keepdim=True).clamp(-1.0, 1.0))
    if float(angle.sin().min()) < 1e-6:  # one direction: nothing to go around
        return torch.lerp(a, b, t)
    direction = (torch.sin((1 - t) * angle) * a / length_a + torch.sin(t * angle) * b / length_b) / torch.sin(angle)
    return direction * torch.lerp(length_a, length_b, t)


def load(path: Path | str, *, device: str = "auto") -> LoadedGenerator:
    """Opens a generator artifact, or a generator logged in MLflow.

    Args:
        path: the artifact's folder, or a URI ``models:/name/version``, ``models:/name@alias`` or ``runs:/id/path``
            (needs MLflow installed).
        device: "auto", "cpu", "cuda", ...

    Raises:
        MedaugError: nothing there, or not a generator.
    """
    folder = resolve(path)
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if card["format"] != FORMAT:
            raise MedaugError(f"{path}: {CARD} has format {card['format']}, expected {FORMAT}; train again")
        config = GanConfig.from_dict(card["config"])
        spec = ImageSpec(**{**card["spec"], "classes": tuple(card["spec"]["classes"])})
        value_range, stage = ValueRange(**card["value_range"]), Stage(**card["stage"])
        weights = load_file(folder / WEIGHTS)
    except MedaugError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise MedaugError(f"{path}: not a whole generator ({type(error).__name__}: {text}); train it again") from None
    chosen = choose_device(device)
    network = registry.build(config, spec).generator
    network.load_state_dict(weights)
    network = place(network, chosen).eval().requires_grad_(False)
    return LoadedGenerator(config, spec, value_range, network, stage, chosen)


def fetch(path: Path | str) -> Path:
    """A local path: the given one, or what an MLflow URI names, downloaded.

    Args:
        path: a folder, or ``models:/name/version``, ``models:/name@alias`` or ``runs:/id/path``.

    Raises:
        MedaugError: MLflow is not installed, or has nothing under that URI.
    """
    text = str(path)
    if not text.startswith(("models:/", "runs:/")):
        return Path(text)
    try:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise MedaugError(f"{text}: an MLflow URI, but MLflow is not installed; pip install mlflow") from None
    try:
        return Path(download_artifacts(artifact_uri=text))
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MedaugError(
            f"{text}: nothing there ({reason}); expected models:/NAME/VERSION, models:/NAME@ALIAS or "
            "runs:/ID/generator of the MLflow that MLFLOW_TRACKING_URI names"
        ) from None


def resolve(path: Path | str) -> Path:
    """A local folder that holds a generator's card; MLflow URIs are downloaded.

    Raises:
        MedaugError: nothing there, or no generator.
    """
    folder = fetch(path)
    cards = [folder / CARD] if (folder / CARD).is_file() else sorted(folder.rglob(CARD)) if folder.is_dir() else []
    if len(cards) != 1:
        raise MedaugError(f"{path}: {len(cards)} generators there, expected one folder with {CARD}")
    return cards[0].parent


def trained_on(folder: Path) -> str:
    """Digest of the dataset artifact that a generator was trained on; "" where its folder does not say.

    An artifact's manifest says it; without one, as :mod:`medgan.distributed` leaves it, the generator's card does.

    Args:
        folder: with the generator's card, see :func:`resolve`.

    Raises:
        MedaugError: the card is damaged.
    """
    if (folder / MANIFEST).is_file():
        return str(Artifact.open(folder).manifest["recipe"]["inputs"].get("dataset", ""))
    try:
        return str(json.loads((folder / CARD).read_text(encoding="utf-8")).get("dataset", ""))
    except (ValueError, AttributeError) as error:
        raise MedaugError(f"{folder / CARD}: damaged ({' '.join(str(error).split())}); train it again") from None


def synthesize(
    generator: LoadedGenerator,
    counts: Mapping[str, int],
    folder: Path,
    seed: int,
    truncation: float,
    progress: Progress,
) -> dict[str, Any]:
    """Draws a labelled set into the files of a synthetic artifact (``images.npy``, ``index.npz``).

    Image i of a class follows from (seed, class, i): a larger set begins with the smaller one.

    Args:
        generator: who draws.
        counts: images for each class name.
        folder: the artifact's draft folder.
        seed: of the set.
        truncation: see :meth:`LoadedGenerator.sample`.
        progress: called with images drawn and images in all.

    Returns:
        the artifact's meta.

    Raises:
        MedaugError: an unknown class, or no image at all.
    """
    spec = generator.spec
    unknown = sorted(set(counts) - set(spec.classes))
    if unknown:
        raise MedaugError(f"counts: unknown class {unknown[0]!r}; expected some of {', '.join(spec.classes)}")
    if min(counts.values(), default=0) < 0 or sum(counts.values()) == 0:
        raise MedaugError(f"counts {dict(counts)}: expected at least one image and no negative number")
    labels = [label for label, name in enumerate(spec.classes) for _ in range(counts.get(name, 0))]
    shape = (len(labels), spec.channels, spec.height, spec.width)
    codes = np.lib.format.open_memmap(folder / IMAGES, mode="w+", dtype=np.uint16, shape=shape)
    done = 0
    for label, name in enumerate(spec.classes):
        for begin in range(0, counts.get(name, 0), generator.batch):
            size = min(generator.batch, counts[name] - begin)
            images = generator.sample([label] * size, _class_seed(seed, label), truncation, start=begin)
            codes[done : done + size] = encode(images.numpy())
            done += size
            progress(done, len(labels))
    codes.flush()
    write_index(folder, codes, labels, [SPLITS.index("train")] * len(labels), [-1] * len(labels))
    drawn = {name: counts.get(name, 0) for name in spec.classes}
    return dataset_meta(
        spec, generator.value_range, True, counts=drawn, gan=generator.config.name, seed=seed, truncation=truncation
    )


def _class_seed(seed: int, label: int) -> int:
    return seed * 1_000_003 + label
