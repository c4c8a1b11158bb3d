"""The experiment's configuration: one YAML, validated whole before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from classifiers.config import Balance, ClassifierConfig
from medgan.config import GanConfig
from medgan.extractors import ExtractorConfig
from medgan.limitations import PROBES
from pipeline.config import apply_overrides, expand_preset, merge, nearest, read_yaml, validate
from pipeline.ingest import DataConfig
from pipeline.records import MedaugError

Filter = Literal["none", "copies", "confidence", "precision"]
"""Which of a generator's images an arm uses."""


class Frozen(BaseModel):
    """Unknown keys are errors; values do not change after validation."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SynthesisConfig(Frozen):
    """What is drawn from each generator: its whole distribution, never truncated, since it is scored.

    Attributes:
        per_class: images of each class; must cover the largest ratio of arm D by what filters leave ("copies": nine of
            ten are counted on).
        dicom: how many images of each class are written as DICOM files too.
    """

    per_class: int = Field(default=200, ge=2)
    dicom: int = Field(default=8, ge=0)


class ScorecardConfig(Frozen):
    """How the limitations of each GAN are measured.

    Attributes:
        enabled: whether they are.
        images: real and synthetic images that a probe of images looks at, at most.
        draws: images that a probe of the latent space draws itself; some draw several times as many.
        probes: names of :data:`medgan.limitations.PROBES` that run; empty for all.
    """

    enabled: bool = True
    images: int = Field(default=2000, ge=50)
    draws: int = Field(default=500, ge=100)
    probes: tuple[str, ...] = ()

    @field_validator("probes")
    @classmethod
    def _known(cls, probes: tuple[str, ...]) -> tuple[str, ...]:
        for name in probes:
            if name not in PROBES:
                raise ValueError(f"unknown probe {name!r}{nearest(name, PROBES)}; known: {', '.join(PROBES)}")
        return probes


class ClassificationConfig(Frozen):
    """The comparison of training sets, laid down before the run's first training.

    Attributes:
        arms: which of PROTOCOL's arms are trained.
        ratios: synthetic to real training images, for arms C and D.
        balance: how arms C, D and E spread what they add over the classes: "uniform" in proportion, "balance" to the
            rarest classes first; both may stand in a list.
        filters: which of the synthetic images arm D uses: "none" takes all; "copies" leaves out copies of training
            images; "confidence" keeps those that a classifier of the real training patients is surest of; "precision"
            keeps those that lie deepest among the real ones in feature space. Each is an arm of its own.
        keep: share of each class that "confidence" and "precision" keep.
        fractions: of the training patients. Below 1, extractor, GANs and classifiers learn from that fraction alone.
        seeds: classifier seeds; each arm is trained once per seed.
        endpoint: the one primary metric, named before the run.
        fixed: specificity at which sensitivity is read off, and the other way round.
        resamples: bootstrap resamples over patients; more are drawn where Holm's correction over the planned contrasts
            needs them, 80 for each.
    """

    arms: tuple[Literal["A", "B", "C", "D", "E"], ...] = ("A", "B", "C", "D")
    ratios: tuple[float, ...] = (1.0,)
    balance: tuple[Balance, ...] = ("uniform",)
    filters: tuple[Filter, ...] = ("none",)
    keep: float = Field(default=0.5, gt=0, lt=1)
    fractions: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = (0, 1)
    endpoint: Literal["auroc", "auprc", "balanced_accuracy"] = "auroc"
    fixed: float = Field(default=0.9, gt=0, lt=1)
    resamples: int = Field(default=2000, ge=2000)

    @field_validator("balance", "filters", mode="before")
    @classmethod
    def _one_will_do(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("ratios")
    @classmethod
    def _positive(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if not ratios or any(not 0 < ratio <= 10 for ratio in ratios):
            raise ValueError("ratios must lie above 0 and at most at 10 (1 doubles the training images)")
        return ratios

    @field_validator("fractions")
    @classmethod
    def _parts(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        if not fractions or any(not 0 < fraction <= 1 for fraction in fractions):
            raise ValueError("fractions of the training patients must lie above 0 and at most at 1 (1 takes all)")
        return fractions

    @model_validator(mode="after")
    def _contrasts_need_controls(self) -> ClassificationConfig:
        for name in ("arms", "ratios", "balance", "filters", "fractions", "seeds"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name}: at least one is needed")
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: {list(values)} names one twice")
        if "D" in self.arms and not {"B", "C"} <= set(self.arms):
            raise ValueError("arm D without B and C has nothing to be compared with; add them to arms")
        return self

    @property
    def needs_gan(self) -> bool:
        """Whether an arm uses synthetic images."""
        return bool({"D", "E"} & set(self.arms))


class TrackingConfig(Frozen):
    """Where MLflow keeps its runs.

    Attributes:
        uri: a tracking URI; None takes MLFLOW_TRACKING_URI, or else ``mlflow.db`` in the runs folder.
        experiment: the MLflow experiment; None takes the experiment's name.
    """

    uri: str | None = None
    experiment: str | None = None


class RunnerConfig(Frozen):
    """What runs the tasks.

    Attributes:
        kind: "threads" of one process; "ray" for processes that Ray starts, on this machine or on many, and gives GPUs.
        address: HOST:PORT of a Ray cluster's head; None takes RAY_ADDRESS, or else starts Ray on this machine.
    """

    kind: Literal["threads", "ray"] = "threads"
    address: str | None = None

    @model_validator(mode="after")
    def _address_of_a_cluster(self) -> RunnerConfig:
        if self.address is None:
            return self
        if self.kind != "ray":
            raise ValueError("address goes with kind ray; threads have none")
        if not re.fullmatch(r"[^\s:/]+:\d{1,5}", self.address):
            raise ValueError("address: expected HOST:PORT of a Ray cluster's head, such as 10.0.0.7:6379")
        return self


class ExperimentConfig(Frozen):
    """Everything a run depends on.

    Attributes:
        name: names the folder of the report and the MLflow experiment.
        headline: stands above the report.
        seed: base of all seeds that are not named one by one.
        data: where scans come from and how they are prepared.
        gans: one training per entry and GAN seed.
        gan_seeds: seeds of the generators.
        extractor: the classifier whose features ``fid.domain`` uses; trained on training patients.
        extractors: further ones, e.g. ``{kind: inception, weights: PATH}``; each adds its own rows.
        synthesis: what is drawn.
        scorecard: which limitations are measured, on how many images.
        classifiers: the downstream classifiers.
        classification: arms, ratios, seeds, endpoint.
        tracking: MLflow.
        runner: threads, or Ray.
        runs: folder of artifacts, reports and the embedded databases.
        device: "auto", "cpu", "cuda" or "cuda:N".
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    headline: str = ""
    seed: int = 0
    data: DataConfig
    gans: tuple[GanConfig, ...] = ()
    gan_seeds: tuple[int, ...] = (0,)
    extractor: ClassifierConfig
    extractors: tuple[Annotated[ExtractorConfig, Field(discriminator="kind")], ...] = ()
    synthesis: SynthesisConfig = SynthesisConfig()
    scorecard: ScorecardConfig = ScorecardConfig()
    classifiers: tuple[ClassifierConfig, ...] = ()
    classification: ClassificationConfig = ClassificationConfig()
    tracking: TrackingConfig = TrackingConfig()
    runner: RunnerConfig = RunnerConfig()
    runs: Path = Path("runs")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")

    @model_validator(mode="after")
    def _names_are_unique(self) -> ExperimentConfig:
        groups = {
            "gans": [gan.name for gan in self.gans],
            "classifiers": [classifier.name for classifier in self.classifiers],
            "extractors": [extractor.name for extractor in self.extractors],
        }
        for kind, names in groups.items():
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind}: {', '.join(twice)} is there twice; give each entry its own name")
        if self.gans and not self.gan_seeds:
            raise ValueError("gan_seeds: at least one seed is needed")
        if self.classifiers and self.classification.needs_gan and not self.gans:
            arms = ", ".join(arm for arm in self.classification.arms if arm in "DE")
            raise ValueError(f"classification.arms: {arms} need synthetic images; name a GAN under gans, or leave out")
        if self.runner.kind == "ray" and ":" in self.device:
            raise ValueError(
                f"device: {self.device} cannot be had on Ray, which chooses the GPUs; set auto, cuda or cpu"
            )
        return self


def load_experiment(
    path: Path,
    overrides: Sequence[str] = (),
    data: Path | None = None,
    labels: Path | None = None,
    runs: Path | None = None,
) -> ExperimentConfig:
    """Reads, expands, overrides and validates an experiment's YAML.

    Args:
        path: the experiment's file, e.g. ``configs/experiment/quickstart.yaml``.
        overrides: ``a.b=c`` texts; they come last.
        data: replaces ``data.source.path``.
        labels: replaces ``data.labels.file``.
        runs: replaces ``runs``.

    Raises:
        MedaugError: one line that names file, key, what was expected and the nearest known name.
    """
    raw: dict[str, Any] = read_yaml(path)
    raw["data"] = expand_preset("data", raw.get("data", {}), path, f"{path}: data")
    if data is not None:
        raw["data"] = merge(raw["data"], {"source": {"path": str(data)}})
    if labels is not None:
        raw["data"] = merge(raw["data"], {"labels": {"file": str(labels)}})
    if runs is not None:
        raw["runs"] = str(runs)
    raw = apply_overrides(raw, overrides)
    raw["extractor"] = expand_preset("classifier", raw.get("extractor", "resnet"), path, f"{path}: extractor")
    raw["gans"] = _expand_group("gan", raw.get("gans"), raw.pop("gan_defaults", None), path, "gans")
    raw["classifiers"] = _expand_group(
        "classifier", raw.get("classifiers"), raw.pop("classifier_defaults", None), path, "classifiers"
    )
    return validate(ExperimentConfig, raw, str(path))


def _expand_group(
    group: str, entries: Any, defaults: Mapping[str, Any] | None, path: Path, key: str
) -> list[dict[str, Any]]:
    """A list of names, or a mapping name → overlay, to full configurations; the defaults lie under each overlay."""
    if entries is None:
        entries = {}
    if isinstance(entries, list):
        named: dict[str, Any] = {}
        for entry in entries:
            overlay = {"preset": entry} if isinstance(entry, str) else entry
            name = isinstance(overlay, Mapping) and overlay.get("name", overlay.get("preset"))
            if not name:
                raise MedaugError(f"{path}: {key}: {entry!r} has neither preset nor name")
            named[str(name)] = overlay
        entries = named
    if not isinstance(entries, Mapping):
        raise MedaugError(f"{path}: {key}: expected a list of names or a mapping, found {entries!r}")
    expanded = []
    for name, overlay in entries.items():
        overlay = {"preset": name, **merge(defaults or {}, overlay or {})}
        expanded.append({**expand_preset(group, overlay, path, f"{path}: {key}"), "name": str(name)})
    return expanded
