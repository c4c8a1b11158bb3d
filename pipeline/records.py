"""Frozen records that cross package borders. Standard library only, so that every package may import it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pipeline.claims import Concern as Concern
from pipeline.claims import Verdict as Verdict

SPLITS = ("train", "validation", "test")

LEVEL = 0.05
"""Of every claim on usefulness, two-sided, after Holm's correction; intervals are 95 %."""

LogFunction = Callable[[Mapping[str, float], int], None]
"""What libraries get instead of a tracking client: ``log(values, step)``."""


Progress = Callable[[int, int], None]
"""How libraries tell how far they are: ``progress(done, total)``."""


class MedaugError(ValueError):
    """Input, configuration or usage is wrong; the message is one line: what, where, expected, remedy."""


class PrivateError(MedaugError):
    """Input is wrong, and why may name files: ``detail`` is for the user at the terminal, the text for servers.

    Servers keep errors pickled, so that the detail stays in this process's memory and out of the pickle.

    Args:
        detail: the message for the user.
        token: under which it is remembered; for unpickling alone.
    """

    _details: ClassVar[dict[str, str]] = {}

    def __init__(self, detail: str = "", token: str = "") -> None:
        super().__init__("the scans or their labels were refused; 'medaug ingest' with this configuration says why")
        self.token = token or secrets.token_hex(8)
        if detail:
            self._details[self.token] = detail

    @property
    def detail(self) -> str:
        """The message for the user; in another process the one for servers."""
        return self._details.get(self.token, str(self))

    def __reduce__(self) -> tuple[type[PrivateError], tuple[str, str]]:
        return PrivateError, ("", self.token)


@dataclass(frozen=True)
class ValueRange:
    """The physical values that the network's -1 and +1 stand for.

    Attributes:
        low: physical value of -1 (for CT in HU).
        high: physical value of +1.
        unit: "HU" for CT, "1" where the source states none.
    """

    low: float
    high: float
    unit: str = "1"

    def __post_init__(self) -> None:
        if not self.high > self.low:
            raise ValueError(f"value range: high ({self.high}) must exceed low ({self.low})")


@dataclass(frozen=True)
class ImageSpec:
    """What a network has to produce or read.

    Attributes:
        channels: 1 to 4.
        height: pixels.
        width: pixels.
        classes: names in label order; the label of a scan is an index into it.
    """

    channels: int
    height: int
    width: int
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ResultRow:
    """One metric of one cell of an experiment (tidy data: one value a row).

    Attributes:
        stage: "train", "score", "probe" (of the scorecard), "classify" (one classifier), "detail" (its confusion matrix
            and calibration curve), "subgroup", "arm" (over all seeds), "contrast", "power", "variance", "gain" (one
            training's) or "worth" (fidelity against gain).
        metric: a name of the project's list, e.g. ``kid.domain``, ``auroc``; a class is a suffix
            (``fid.domain.contrast``).
        value: the figure.
        low: lower end of its 95 % interval, where one was measured.
        high: upper end.
        n: the number of cases behind the value (patients for contrasts, test scans for classifiers, trainings for a
            probe's figure over all seeds).
        n_real: real images behind a fidelity metric.
        n_synthetic: synthetic images behind a fidelity metric.
        gan: preset name; "" where none is involved (real-only arms, the floor).
        gan_seed: the GAN's seed, or None.
        arm: "A" to "E", or "" outside classification.
        ratio: synthetic to real images of the arm, or None.
        classifier: classifier preset name, or "".
        classifier_seed: the classifier's seed, or None.
        fraction: of the training patients that GAN and classifier learnt from; None for all of them.
        variant: what sets an arm apart beside its ratio, e.g. "balanced, filter=copies"; "" for the plain one.
        note: what a reader must know to read the figure, e.g. "real against real, half split".
    """

    stage: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    n_real: int | None = None
    n_synthetic: int | None = None
    gan: str = ""
    gan_seed: int | None = None
    arm: str = ""
    ratio: float | None = None
    classifier: str = ""
    classifier_seed: int | None = None
    fraction: float | None = None
    variant: str = ""
    note: str = ""


def write_rows(path: Path, rows: Iterable[ResultRow]) -> None:
    """Writes result rows as JSON lines.

    Raises:
        ValueError: a figure or an end of its interval is NaN or infinite, which JSON does not know.
    """
    lines = [json.dumps(asdict(row), sort_keys=True, allow_nan=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def read_rows(path: Path) -> list[ResultRow]:
    """Reads what :func:`write_rows` wrote."""
    return [ResultRow(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True)
class GanSummary:
    """What the report shows of one training.

    Attributes:
        gan: preset name.
        seed: its seed.
        status: "done", "diverged" or "failed".
        reason: one line, where the status is not "done".
        images_seen: real images shown to the discriminator.
        seconds: wall time of the training.
        parameters: {"generator": n, "discriminator": n}.
        curves: metric name → list of (images seen, value).
        timeline: (images seen, seconds since the training began), where it was noted.
        samples: folder with ``<label>.npy`` (``0.npy``, ...) uint8 [n, H, W] or [n, H, W, 3] and ``walk.npy``
            uint8 [classes, steps, H, W]; None where nothing was drawn.
        scorecard: folder with ``missing.json`` (probe → reason), ``figures.json`` (probe → plain data of a small
            figure), ``captions.json`` (probe → what its picture shows; may be missing) and
            ``pictures/<probe>.npy`` uint8 [H, W]; None where no probe ran.
    """

    gan: str
    seed: int
    status: str
    reason: str = ""
    images_seen: int = 0
    seconds: float = 0.0
    parameters: Mapping[str, int] = field(default_factory=dict)
    curves: Mapping[str, list[tuple[float, float]]] = field(default_factory=dict)
    samples: Path | None = None
    scorecard: Path | None = None
    timeline: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class ReportInput:
    """Everything the report is made from; the report reads no other state.

    Attributes:
        title: the experiment's name.
        headline: one sentence above everything, e.g. that a quickstart proves no clinical point; may be "".
        config: the experiment's configuration as plain data.
        dataset: the dataset artifact's manifest ``meta`` (classes, counts, split, quarantine, warnings, ...).
        real_samples: folder like :attr:`GanSummary.samples` with real training images.
        gans: one summary a training.
        rows: all result rows.
        warnings: one line each, most important first.
        links: name → text that tells where things are (MLflow command, artifact folders).
        provenance: versions, device, wall time and so on, name → text.
        verdicts: the scorecard, in the order of the claims.
        concerns: every claim that concerns a GAN of the run, in the same order.
    """

    title: str
    headline: str
    config: Mapping[str, Any]
    dataset: Mapping[str, Any]
    real_samples: Path | None
    gans: tuple[GanSummary, ...]
    rows: tuple[ResultRow, ...]
    warnings: tuple[str, ...]
    links: Mapping[str, str]
    provenance: Mapping[str, str]
    verdicts: tuple[Verdict, ...] = ()
    concerns: tuple[Concern, ...] = ()
