"""One function a format; each writes the images of a synthetic set into a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from pipeline.codes import CODE_MAX, decode
from pipeline.dicom.write import write_synthetic
from pipeline.records import ImageSpec, MedaugError, ValueRange

README = "README.md"


@dataclass(frozen=True)
class ImageSet:
    """What is exported.

    Attributes:
        codes: uint16 [N, C, H, W].
        labels: int64 [N].
        spec: channels, size and classes.
        value_range: the physical values of -1 and +1.
        generator: hash of the generator.
        seed: of the drawing.
        modality: DICOM modality of the source.
        pixel_spacing: mm (between rows, between columns), or None.
    """

    codes: NDArray[np.uint16]
    labels: NDArray[np.int64]
    spec: ImageSpec
    value_range: ValueRange
    generator: str
    seed: int
    modality: str
    pixel_spacing: Sequence[float] | None

    def chosen(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> ImageSet:
        """Some of the images."""
        return replace(self, codes=self.codes[rows], labels=self.labels[rows])


def write_dicom(images: ImageSet, folder: Path) -> None:
    """DICOM files and ``labels.csv``; see :func:`pipeline.dicom.write.write_synthetic`.

    Raises:
        MedaugError: more than one channel.
    """
    if images.spec.channels != 1:
        raise MedaugError(f"--format dicom: {images.spec.channels} channels, expected 1; take --format artifact")
    write_synthetic(
        decode(images.codes[:, 0]),
        images.labels.tolist(),
        images.spec.classes,
        images.value_range,
        folder,
        modality=images.modality,
        generator_hash=images.generator,
        seed=images.seed,
        pixel_spacing=images.pixel_spacing,
    )


def write_png(images: ImageSet, folder: Path) -> None:
    """``<class>/<number>.png``, 8 bits: 0 for the lower end of the value range, 255 for the upper."""
    for place, file in enumerate(_picture_names(images)):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(to_picture(images.codes[place])).save(folder / file)


def write_npz(images: ImageSet, folder: Path) -> None:
    """``synthetic.npz`` in MedMNIST's layout: uint8 images [N, H, W] (or [N, H, W, 3]), uint8 labels [N, 1].

    All images are training images; the arrays of validation and test are there and empty.

    Raises:
        MedaugError: neither 1 nor 3 channels, or more classes than a byte holds.
    """
    if len(images.spec.classes) > 256:
        raise MedaugError(f"--format npz: {len(images.spec.classes)} classes, expected at most 256")
    _need_picture(images.spec, "npz")
    pictures = np.stack([to_picture(codes) for codes in images.codes])
    labels = images.labels[:, None].astype(np.uint8)
    arrays = {"train_images": pictures, "train_labels": labels}
    for part in ("val", "test"):
        arrays.update({f"{part}_images": pictures[:0], f"{part}_labels": labels[:0]})
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "synthetic.npz", **arrays)  # type: ignore[arg-type]


def write_imagefolder(images: ImageSet, folder: Path) -> None:
    """Hugging Face's ``imagefolder``: ``train/<class>/<number>.png``, ``train/metadata.jsonl`` and a dataset card."""
    train = folder / "train"
    write_png(images, train)
    lines = []
    for place, (file, label) in enumerate(zip(_picture_names(images), images.labels.tolist(), strict=True)):
        entry = {"file_name": file, "label": images.spec.classes[label], "synthetic": True, "number": place}
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    (train / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    features = [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": {"class_label": {"names": dict(enumerate(images.spec.classes))}}},
        {"name": "synthetic", "dtype": "bool"},
        {"name": "number", "dtype": "int64"},
    ]
    card = {
        "pretty_name": "Synthetic medical images",
        "tags": ["synthetic", "medical"],
        "task_categories": ["image-classification"],
        "configs": [{"config_name": "default", "data_dir": "train", "features": features}],
    }
    head = yaml.safe_dump(card, sort_keys=False, allow_unicode=True)
    text = (
        "# Synthetic images\n\nDrawn by a generative network; they depict no patient. Read DATASHEET.md before use.\n"
    )
    (folder / README).write_text(f"---\n{head}---\n\n{text}", encoding="utf-8")


WRITERS = {"dicom": write_dicom, "png": write_png, "npz": write_npz, "imagefolder": write_imagefolder}


def to_picture(codes: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Codes [C, H, W] to 8 bits, [H, W] or [H, W, 3]."""
    picture = np.rint(codes * (255 / CODE_MAX)).astype(np.uint8)
    return picture[0] if len(picture) == 1 else np.moveaxis(picture, 0, -1)


def _picture_names(images: ImageSet) -> list[str]:
    """``<class>/<number>.png`` of each image, numbers counted within the class."""
    _need_picture(images.spec, "png")
    folders = folder_names(images.spec.classes)
    counts = [0] * len(folders)
    names = []
    for label in images.labels.tolist():
        names.append(f"{folders[label]}/{counts[label]:05d}.png")
        counts[label] += 1
    return names


def folder_names(classes: Sequence[str]) -> list[str]:
    """Class names as names of folders: what a file system may refuse becomes an underscore, none is there twice."""
    names: list[str] = []
    for label, name in enumerate(classes):
        safe = "".join(c if c.isalnum() or c in " -+=()" else "_" for c in name).strip() or "_"
        names.append(safe if safe not in names else f"{safe}_{label}")
    return names


def _need_picture(spec: ImageSpec, form: str) -> None:
    if spec.channels not in (1, 3):
        raise MedaugError(f"--format {form}: {spec.channels} channels, expected 1 or 3; take --format artifact")


def describe(images: ImageSet) -> dict[str, Any]:
    """What a datasheet says of the images' form, JSON data."""
    counts = np.bincount(images.labels, minlength=len(images.spec.classes)).tolist()
    return {
        "images": len(images.labels),
        "classes": dict(zip(images.spec.classes, counts, strict=True)),
        "channels": images.spec.channels,
        "height": images.spec.height,
        "width": images.spec.width,
        "value_range": vars(images.value_range).copy(),
        "modality": images.modality,
        "pixel_spacing_mm": images.pixel_spacing,
    }
