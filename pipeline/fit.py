"""Whether synthetic images may stand beside real ones in a training set."""

from __future__ import annotations

from typing import Protocol

from pipeline.dataset import ScanDataset, refuse_test_images
from pipeline.records import ImageSpec, MedaugError, ValueRange


class Form(Protocol):
    """What images look like."""

    @property
    def spec(self) -> ImageSpec:
        """Channels, size and classes."""

    @property
    def value_range(self) -> ValueRange:
        """The physical values of -1 and +1."""


class Synthetic(Form, Protocol):
    """What synthetic images look like, and where they come from."""

    @property
    def trained_on(self) -> str:
        """Digest of the dataset artifact its generator was trained on; "" where that is unknown."""


def require_fit(where: str, real: ScanDataset, synthetic: Synthetic) -> None:
    """Refuses what may not stand beside real images in a training set.

    Args:
        where: the synthetic set, for the message.
        real: a dataset artifact.
        synthetic: what would stand beside it.

    Raises:
        MedaugError: real images, images of another form or of a generator trained on another dataset artifact, or one
            of the sealed test set; the last of those that are drawn already.
    """
    drawn = synthetic if isinstance(synthetic, ScanDataset) else None
    if drawn is not None and not drawn.synthetic:
        raise MedaugError(f"{where}: holds real images, expected a generator's synthetic artifact")
    require_same_form(where, real, synthetic)
    if drawn is not None:
        refuse_test_images(real.meta, drawn.hashes, where)
    require_same_split(where, real, synthetic)


def require_same_form(where: str, real: ScanDataset, synthetic: Form) -> None:
    """Refuses synthetic images of other classes, size or unit than the real ones.

    Args:
        where: the synthetic set, for the message.
        real: a dataset artifact.
        synthetic: what would stand beside it.

    Raises:
        MedaugError: names the first difference.
    """
    ours, theirs = real.spec, synthetic.spec
    for what, expected, found in (
        ("classes", ", ".join(ours.classes), ", ".join(theirs.classes)),
        ("channels", str(ours.channels), str(theirs.channels)),
        ("size", f"{ours.height}x{ours.width}", f"{theirs.height}x{theirs.width}"),
        ("unit", real.value_range.unit, synthetic.value_range.unit),
        ("value range", _span(real.value_range), _span(synthetic.value_range)),
    ):
        if expected != found:
            raise MedaugError(
                f"{where}: {what} {found}, but the real data {real.artifact.path} has {expected}; "
                "draw from a generator trained on that dataset"
            )


def require_same_split(where: str, real: ScanDataset, synthetic: Synthetic) -> None:
    """Refuses synthetic images whose generator may have seen the patients that the real data holds back.

    A dataset artifact's digest covers images, labels and split: only the same digest proves the same split. A larger
    fraction of the same split is refused, too: its generator has seen patients whom this fraction's arms never see.

    Args:
        where: the synthetic set, for the message.
        real: a dataset artifact.
        synthetic: what would stand beside it.

    Raises:
        MedaugError: trained on another dataset artifact, or on an unknown one.
    """
    if synthetic.trained_on != real.artifact.digest:
        other = f"dataset {synthetic.trained_on[:12]}" if synthetic.trained_on else "an unknown dataset"
        raise MedaugError(
            f"{where}: its generator was trained on {other}, not on {real.artifact.path} "
            f"({real.artifact.digest[:12]}), and may have seen its test patients (a leak); "
            "draw from a generator trained on that dataset"
        )


def _span(value_range: ValueRange) -> str:
    return f"{value_range.low:g} to {value_range.high:g}"
