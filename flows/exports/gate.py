"""The gate in front of every export: no copy of a training image leaves the house."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medgan.metrics.copies import copies
from medgan.metrics.measured import TooFewImagesError
from pipeline.codes import decode
from pipeline.dataset import ScanDataset
from pipeline.fit import Form, require_same_form
from pipeline.records import MedaugError
from pipeline.store import Artifact


@dataclass(frozen=True)
class CopyCheck:
    """What the gate did.

    Attributes:
        checked: whether the images were compared with the training images.
        images: how many were looked at.
        left_out: how many of them are copies, and stay here.
        expected: share of new patients' images that would pass for copies; None where nothing was checked.
        method: how a copy is told, in words, with the threshold; or why nothing was checked.
        training: digest of the dataset artifact it was compared with; "" where nothing was checked.
        proven: whether the generator itself names that dataset; else it is the user who says so.
    """

    checked: bool
    images: int
    left_out: int
    expected: float | None
    method: str
    training: str = ""
    proven: bool = True

    @property
    def text(self) -> str:
        """One line for people."""
        if not self.checked:
            return f"NOT compared with the training images ({self.method})"
        text = f"{self.left_out} of {self.images} images left out as copies of training images ({self.method})"
        unproven = (
            f"; UNPROVEN: the generator does not name its training images, those of dataset {self.training[:12]} were "
            "given as such"
        )
        return text + ("" if self.proven else unproven)


def unchecked(images: int) -> CopyCheck:
    """What is said of a set that was let through by ``--no-copy-check``."""
    return CopyCheck(False, images, 0, None, "--no-copy-check was given", proven=False)


def find_copies(
    where: str, synthetic: Form, codes: NDArray[np.uint16], training: Path
) -> tuple[NDArray[np.bool_], CopyCheck]:
    """Compares synthetic images with those that their generator was trained on.

    Args:
        where: the synthetic set, for messages.
        synthetic: its form.
        codes: uint16 [N, C, H, W].
        training: folder of the dataset artifact.

    Returns:
        bool [N], True for a copy; and the check.

    Raises:
        MedaugError: another form, or too few real images to tell copies.
    """
    real, held_out = ScanDataset(training, "train"), ScanDataset(training, "validation")
    require_same_form(where, real, synthetic)
    try:
        found = copies(real.tensor(), held_out.tensor(), decode(codes), held_out.patients)
    except TooFewImagesError as error:
        raise MedaugError(
            f"{where}: cannot be checked for copies of training images: {error}; or --no-copy-check"
        ) from None
    mask = found.mask.numpy()
    check = CopyCheck(True, len(codes), int(mask.sum()), found.expected, found.share.note, real.artifact.digest)
    return mask, check


def find_training_data(where: str, digest: str, given: Path | None, store: Path) -> Path:
    """The dataset artifact that a generator was trained on; where it names none, the given one on the user's word.

    Args:
        where: the synthetic set or its generator, for messages.
        digest: of the dataset artifact, as the generator says; "" where it does not.
        given: by the user, or None.
        store: the artifacts' folder, where it is looked for.

    Raises:
        MedaugError: not there, or the given one is another.
    """
    remedy = "give --training with the dataset artifact's folder, or --no-copy-check to let copies out"
    if given is not None:
        found = Artifact.open(given)
        if found.kind != "dataset":
            raise MedaugError(f"--training {given}: is a {found.kind} artifact, expected a dataset artifact")
        if digest and found.digest != digest:
            raise MedaugError(
                f"--training {given}: is dataset {found.digest[:12]}, but {where} was made from {digest[:12]}; {remedy}"
            )
        return given
    for manifest in sorted((store / "dataset").glob("*/manifest.json")):
        if digest and Artifact.open(manifest.parent).digest == digest:
            return manifest.parent
    made = f"dataset {digest[:12]}, which is not in {store}" if digest else "a dataset that it does not name"
    raise MedaugError(f"{where}: made from {made}, so it cannot be checked for copies of training images; {remedy}")
