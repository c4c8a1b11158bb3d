"""Procedural chest CT phantoms with lesions, written as real DICOM: the offline default.

The anatomy is drawn in millimetres with soft edges (partial volume) from ellipses whose parameters are drawn once a
patient; a slice is that patient at another height. Values are Hounsfield units (water 0, air -1000).

Classes: ``healthy``; ``nodule`` (one solid sphere in a lung among vessels that look alike in cross-section);
``effusion`` (fluid that layers in the dependent, posterior part of a pleural space, in supine position). Healthy lungs
have dependent density of their own, so that neither finding is there for a threshold to find.

Directions are those of an axial slice as it is displayed: x to the patient's left, y to the patient's back.
"""

from __future__ import annotations

import csv
import math
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.records import MedaugError, Progress

CLASSES = ("effusion", "healthy", "nodule")
VENDORS = ("Phantom Works A", "Phantom Works B")

Hounsfield = NDArray[np.float32]


@dataclass(frozen=True)
class Finding:
    """Ground truth of one slice; empty fields where there is no lesion.

    Attributes:
        side: "left" or "right" lung of the patient; "" without a lesion.
        diameter_mm: the nodule's diameter in this slice.
        x_mm: nodule centre, to the patient's left of the image centre.
        y_mm: nodule centre, to the patient's back from the image centre.
        depth_mm: depth of the fluid at its deepest.
    """

    side: str = ""
    diameter_mm: float | None = None
    x_mm: float | None = None
    y_mm: float | None = None
    depth_mm: float | None = None


@dataclass(frozen=True)
class PhantomSlice:
    """One axial slice.

    Attributes:
        hu: float32 [size, size], Hounsfield units.
        spacing_mm: side of a pixel.
        height_mm: position along the body, upwards.
        finding: what is to be seen in it.
    """

    hu: Hounsfield
    spacing_mm: float
    height_mm: float
    finding: Finding


@dataclass(frozen=True)
class Anatomy:
    """What differs between patients; lengths in mm, densities in HU."""

    fov: float
    half_width: float
    half_depth: float
    fat: float
    chest_wall: float
    lung: float
    vessels: NDArray[np.float64]
    heart_shift: float
    heart_size: float
    aorta: float
    spine: float
    dependent: float
    tissue: float
    shift: tuple[float, float]
    table: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Anatomy:
        """Draws one patient's anatomy."""
        half_width = rng.uniform(140, 180)
        # Vessels, one a row: side, position in the lung's ellipse (radius, angle), radius in mm, phase over height.
        count = int(rng.integers(10, 20))
        vessels = np.stack(
            [
                rng.choice([-1.0, 1.0], count),
                np.sqrt(rng.uniform(0.02, 0.75, count)),
                rng.uniform(0, 2 * math.pi, count),
                rng.gamma(4.0, 0.5, count),
                rng.uniform(0, 2 * math.pi, count),
            ],
            axis=1,
        )
        return cls(
            fov=2 * half_width * rng.uniform(1.06, 1.18),
            half_width=half_width,
            half_depth=half_width * rng.uniform(0.68, 0.8),
            fat=rng.uniform(5, 22),
            chest_wall=rng.uniform(12, 18),
            lung=rng.normal(-820, 35),
            vessels=vessels,
            heart_shift=rng.uniform(10, 26),
            heart_size=rng.uniform(0.85, 1.15),
            aorta=rng.uniform(11, 16),
            spine=rng.uniform(15, 20),
            dependent=rng.uniform(0, 160),
            tissue=rng.normal(45, 8),
            shift=(rng.normal(0, 6), rng.normal(0, 6)),
            table=rng.uniform(8, 24),
        )


def draw_patient(label: str, slices: int, size: int, sharp: bool, rng: np.random.Generator) -> list[PhantomSlice]:
    """Draws one patient.

    Args:
        label: one of :data:`CLASSES`.
        slices: how many, a few millimetres apart around the finding.
        size: pixels a side.
        sharp: the sharper of two reconstruction kernels (finer and stronger noise).
        rng: the source of everything random.

    Returns:
        The slices from below upwards.
    """
    assert label in CLASSES, label
    body = Anatomy.draw(rng)
    level = rng.uniform(0.25, 0.8)  # 0 at the lung's base, 1 at its apex
    step = rng.uniform(3, 6)
    side = float(rng.choice([-1.0, 1.0]))
    # A sphere in the lung's ellipse, clear of the pleura; the fluid's depth as a share of the lung's depth.
    nodule = (math.sqrt(rng.uniform(0.05, 0.6)), rng.uniform(0, 2 * math.pi), rng.uniform(16, 32), rng.normal(40, 30))
    share = rng.uniform(0.07, 0.36)
    drawn = []
    for number in range(slices):
        offset = (number - (slices - 1) / 2) * step
        canvas = _Canvas(body, size)
        height = float(np.clip(level + offset / 200, 0.1, 0.95))
        lungs = _draw_body(canvas, body, height)
        finding = Finding()
        if label == "nodule":
            finding = _draw_nodule(canvas, lungs[side], side, offset, *nodule)
        elif label == "effusion":
            finding = _draw_effusion(canvas, lungs[side], side, share * (1.15 - 0.5 * height))
        hu = canvas.hu + _noise(size, sharp, rng)
        drawn.append(PhantomSlice(np.clip(hu, -1024, 3071).astype(np.float32), body.fov / size, height * 200, finding))
    return drawn


class _Canvas:
    """An image in the making, with coordinates in mm from the body's centre, which lies off the image's."""

    def __init__(self, body: Anatomy, size: int):
        self.pixel = body.fov / size
        axis = (np.arange(size) - (size - 1) / 2) * self.pixel
        self.shift = body.shift
        self.x = axis[None, :] - body.shift[0]
        self.y = axis[:, None] - body.shift[1]
        self.hu = np.full((size, size), -1000.0)

    def soft(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share of a pixel that lies inside, from the signed distance in mm to an edge (positive inside)."""
        return np.clip(distance / self.pixel + 0.5, 0.0, 1.0)

    def ellipse(self, x: float, y: float, a: float, b: float, power: float = 2.0) -> NDArray[np.float64]:
        """Coverage of a (super)ellipse with half axes a, b."""
        radius = (np.abs((self.x - x) / a) ** power + np.abs((self.y - y) / b) ** power) ** (1 / power)
        return self.soft((1 - radius) * min(a, b))

    def paint(self, coverage: NDArray[np.float64], hu: float | NDArray[np.float64]) -> None:
        """Puts a material over what is there."""
        self.hu += coverage * (hu - self.hu)


@dataclass(frozen=True)
class _Lung:
    x: float
    y: float
    a: float
    b: float
    coverage: NDArray[np.float64]


def _draw_body(canvas: _Canvas, body: Anatomy, height: float) -> dict[float, _Lung]:
    """Paints everything but the finding; returns the lungs by side (-1 the patient's right, +1 the left)."""
    w, d = body.half_width, body.half_depth
    table_top = d + 6
    slab = np.minimum(canvas.y - table_top, table_top + body.table - canvas.y) - 0.0006 * canvas.x**2
    canvas.paint(canvas.soft(slab) * canvas.soft(0.9 * w - np.abs(canvas.x)), -250.0)
    canvas.paint(canvas.ellipse(0, 0, w, d, 2.3), -100.0)  # subcutaneous fat
    inner_w, inner_d = w - body.fat, d - body.fat
    canvas.paint(canvas.ellipse(0, 0, inner_w, inner_d, 2.3), body.tissue)
    # Lungs shrink towards the apex.
    reach = 1.0 - 0.45 * max(0.0, height - 0.35)
    wall = body.chest_wall
    lungs: dict[float, _Lung] = {}
    for side in (-1.0, 1.0):
        a = 0.47 * (inner_w - wall) * reach * (1.05 if side < 0 else 0.95)
        b = 0.92 * (inner_d - wall) * reach
        x = side * (inner_w - wall - a) * (0.98 - 0.1 * (1 - reach))
        lungs[side] = _Lung(x, 0.02 * d, a, b, canvas.ellipse(x, 0.02 * d, a, b, 2.2))
    dependence = np.clip((canvas.y + 0.3 * d) / (1.2 * d), 0, 1) ** 2
    texture = body.lung + body.dependent * dependence
    for lung in lungs.values():
        canvas.paint(lung.coverage, texture)
    for side, radius, angle, thickness, phase in body.vessels:
        lung = lungs[float(side)]
        turn = angle + 0.5 * math.sin(3 * height + phase)
        x = lung.x + lung.a * radius * math.cos(turn)
        y = lung.y + lung.b * radius * math.sin(turn)
        long = thickness * (1.2 + 0.8 * math.sin(phase + 9 * height))
        canvas.paint(canvas.ellipse(x, y, max(thickness, long), thickness) * lung.coverage, 35.0)
    # Mediastinum: the heart in the lower half, great vessels above it, trachea and bronchi.
    heart = body.heart_size * float(np.clip(1.25 - height, 0.35, 1.0))
    canvas.paint(canvas.ellipse(0, 0.02 * d, 0.17 * w, 0.6 * d), body.tissue)
    ventricles = canvas.ellipse(body.heart_shift * heart, -0.25 * d, 0.36 * w * heart, 0.40 * d * heart)
    canvas.paint(ventricles, body.tissue + 5)
    canvas.paint(canvas.ellipse(18, 0.38 * d, body.aorta, body.aorta), body.tissue + 10)
    canvas.paint(canvas.ellipse(-4, 0.05 * d, 9, 8), -900.0 if height > 0.5 else body.tissue)
    # Bone: vertebra with its canal, ribs along the chest wall, sternum.
    canvas.paint(canvas.ellipse(0, 0.56 * d, body.spine * 1.2, body.spine), 320.0)
    canvas.paint(canvas.ellipse(0, 0.56 * d + body.spine * 1.25, 8, 7), 30.0)
    canvas.paint(canvas.ellipse(0, 0.56 * d + body.spine * 2.0, 5, 10), 350.0)
    canvas.paint(canvas.ellipse(0, -(inner_d - 10), 16, 5), 300.0)
    for side in (-1.0, 1.0):
        for index in range(5):
            angle = -0.9 + 0.45 * index + 0.35 * math.sin(7 * height + index)
            x = side * (inner_w - wall / 2) * math.cos(angle)
            y = (inner_d - wall / 2) * math.sin(angle)
            canvas.paint(canvas.ellipse(x, y, 5, 9), 420.0)
    return lungs


def _draw_nodule(
    canvas: _Canvas, lung: _Lung, side: float, offset: float, radius: float, angle: float, diameter: float, hu: float
) -> Finding:
    x = lung.x + lung.a * radius * math.cos(angle)
    y = lung.y + lung.b * radius * math.sin(angle)
    # The cut through a sphere; never less than half its diameter, so that each slice shows what its label says.
    cut = max(0.5, math.sqrt(max(0.0, 1 - (2 * offset / diameter) ** 2))) * diameter
    canvas.paint(canvas.ellipse(x, y, cut / 2, cut / 2), hu)
    return Finding(_name(side), cut, x + canvas.shift[0], y + canvas.shift[1])


def _draw_effusion(canvas: _Canvas, lung: _Lung, side: float, share: float) -> Finding:
    depth = 2 * lung.b * share
    # Fluid finds its level; the meniscus climbs along the lateral wall.
    climb = 0.35 * depth * np.clip(side * (canvas.x - lung.x) / lung.a, 0, 1) ** 2
    level = lung.y + lung.b - depth - climb
    canvas.paint(canvas.soft(canvas.y - level) * lung.coverage, 12.0)
    return Finding(_name(side), depth_mm=depth)


def _name(side: float) -> str:
    return "left" if side > 0 else "right"


def _noise(size: int, sharp: bool, rng: np.random.Generator) -> NDArray[np.float64]:
    """Slightly correlated Gaussian noise in HU; pixels are small against the detector's blur."""
    white = rng.normal(0, 1, (size + 2, size + 2))
    blurred = sum(
        weight * white[1 + i : size + 1 + i, 1 + j : size + 1 + j]
        for i, j, weight in ((0, 0, 1.0), (0, 1, 0.5), (1, 0, 0.5), (0, -1, 0.5), (-1, 0, 0.5))
    ) / math.sqrt(2.0)
    noise: NDArray[np.float64] = 45.0 * white[1:-1, 1:-1] if sharp else 30.0 * np.asarray(blurred)
    return noise


def write_phantoms(
    folder: Path, patients: int = 90, size: int = 128, seed: int = 0, progress: Progress | None = None
) -> Path:
    """Writes phantoms as DICOM files, one folder a patient, with their labels and ground truth.

    Vendor, photometric interpretation and compression vary between patients, each evenly within every class, so that
    none of them tells the class. The folder appears under its name only when it is whole.

    Args:
        folder: where to; returned as it is if it is there already.
        patients: how many, shared evenly among the classes.
        size: pixels a side.
        seed: everything follows from it; equal seeds, equal files.
        progress: told after each patient.

    Returns:
        The folder: ``dicom/<patient>/*.dcm``, ``labels.csv`` (file, label), ``attributes.csv`` (:class:`Finding`).

    Raises:
        MedaugError: too few patients or pixels.
    """
    if patients < 3 * len(CLASSES):
        raise MedaugError(f"phantoms: {patients} patients, expected at least {3 * len(CLASSES)} (3 a class)")
    if size < 32:
        raise MedaugError(f"phantoms: size {size}, expected at least 32 pixels a side")
    folder = Path(folder)
    if folder.is_dir():
        return folder
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.{os.urandom(3).hex()}")
    draft.mkdir(parents=True)
    try:
        _write_files(draft, patients, size, seed, progress)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker, with the same content
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _write_files(folder: Path, patients: int, size: int, seed: int, progress: Progress | None) -> None:
    from pipeline.dicom.write import CtHeader, write_ct  # late: drawing needs numpy alone

    labels, attributes = [], []
    for number in range(patients):
        label, turn = CLASSES[number % len(CLASSES)], number // len(CLASSES)
        rng = np.random.default_rng([seed, number])
        sharp = turn % 2 == 1
        patient = f"PH{seed:04d}{number:04d}"
        count = 2 + int(rng.integers(0, 3))
        (folder / "dicom" / patient).mkdir(parents=True)
        for index, drawn in enumerate(draw_patient(label, count, size, sharp, rng), start=1):
            header = CtHeader(
                patient_id=patient,
                patient_name=f"Phantom^{number + 1:04d}",
                sex="FM"[int(turn % 4 > 1)],
                instance=index,
                spacing_mm=drawn.spacing_mm,
                thickness_mm=3.0,
                position_mm=drawn.height_mm,
                manufacturer=VENDORS[int(sharp)],
                kernel="SHARP" if sharp else "SMOOTH",
                inverted=turn % 5 == 2,
                transfer_syntax=("explicit", "rle", "explicit", "jpegls", "jpeg2000", "explicit", "explicit")[turn % 7],
                uid_root=f"phantom/{seed}/{size}",
            )
            file = f"{patient}/{index:02d}.dcm"
            write_ct(folder / "dicom" / file, drawn.hu, header)
            labels.append({"file": file, "label": label})
            attributes.append({"file": file, "patient": patient, "label": label, **asdict(drawn.finding)})
        if progress is not None:
            progress(number + 1, patients)
    for name, rows in (("labels.csv", labels), ("attributes.csv", attributes)):
        with (folder / name).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
