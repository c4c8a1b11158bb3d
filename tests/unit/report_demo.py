"""A made-up but realistic report: ``python -m tests.unit.report_demo FOLDER`` writes it, to look at."""

from __future__ import annotations

import json
import logging
import math
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipeline.audit import FieldAudit
from pipeline.records import GanSummary, ReportInput, ResultRow, Verdict
from pipeline.report import write_report

CLASSES = ("healthy", "nodule", "effusion")
GANS = ("dcgan", "pggan", "stylegan", "stylegan2")
BLUR = {"real": 0.0, "dcgan": 0.5, "stylegan": 0.3, "stylegan2": 0.12}
SIZE = 32


def phantom(name: str, rng: np.random.Generator, noise: float, size: int = SIZE) -> np.ndarray:
    """A chest-like ellipse phantom, uint8 [size, size]."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    shift, scale = rng.normal(0, 0.03, 2), 1 + rng.normal(0, 0.05)
    y, x = (y - shift[0]) * scale, (x - shift[1]) * scale
    image = np.full((size, size), 0.02)
    image[(x / 0.92) ** 2 + (y / 0.72) ** 2 < 1] = 0.62
    for side in (-1, 1):
        image[((x - side * 0.42) / 0.3) ** 2 + (y / 0.5) ** 2 < 1] = 0.14
    image[(x / 0.1) ** 2 + ((y - 0.52) / 0.1) ** 2 < 1] = 0.95
    if name == "nodule":
        cx, cy = rng.choice([-1, 1]) * rng.uniform(0.32, 0.5), rng.uniform(-0.25, 0.25)
        image[(x - cx) ** 2 + (y - cy) ** 2 < rng.uniform(0.08, 0.12) ** 2] = 0.7
    if name == "effusion":
        image[((x - 0.42) / 0.3) ** 2 + (y / 0.5) ** 2 < np.where(y > rng.uniform(0.0, 0.25), 1, -1)] = 0.55
    image = (
        image
        + rng.normal(0, 0.03, image.shape)
        + noise * rng.normal(0, 0.25, (size // 4, size // 4)).repeat(4, 0).repeat(4, 1)
    )
    return np.clip(image * 255, 0, 255).astype(np.uint8)


def write_samples(folder: Path, noise: float, seed: int, walk: bool, classes: tuple[str, ...] = CLASSES) -> Path:
    """Samples in the format of :attr:`GanSummary.samples`."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for label, name in enumerate(classes):
        np.save(folder / f"{label}.npy", np.stack([phantom(name, rng, noise) for _ in range(12)]))
    if walk:
        ends = [[phantom(name, rng, noise).astype(float) for _ in range(2)] for name in classes]
        steps = [[a + (b - a) * t for t in np.linspace(0, 1, 9)] for a, b in ends]
        np.save(folder / "walk.npy", np.array(steps).astype(np.uint8))
    return folder


def curves(rng: np.random.Generator, quality: float, until: int) -> dict[str, list[tuple[float, float]]]:
    x = np.arange(64, until, 64)
    wobble = np.cumsum(rng.normal(0, 0.02, (2, len(x))), axis=1) * 0.4 + rng.normal(0, 0.05, (2, len(x)))
    at = np.linspace(until / 8, until, 8)
    kid = quality + 0.4 * np.exp(-at / 4000) + rng.normal(0, 0.008, 8)
    return {
        "loss.discriminator": list(zip(x.tolist(), (1.1 + wobble[0]).tolist(), strict=True)),
        "loss.generator": list(zip(x.tolist(), (0.9 + 0.4 * quality + wobble[1]).tolist(), strict=True)),
        "logit.real": list(zip(x.tolist(), np.abs(2 + wobble[0] * 3).tolist(), strict=True)),
        "skipped": [(float(v), 0.0) for v in x],
        "validation.kid.domain": list(zip(at.tolist(), kid.tolist(), strict=True)),
        "validation.fid.domain": list(zip(at.tolist(), (kid * 220 + 8).tolist(), strict=True)),
    }


def score_rows() -> list[ResultRow]:
    size = {"n_real": 118, "n_synthetic": 600}
    rows = []
    for gan, kid, fid, precision, recall in (
        ("dcgan", 0.212, 61.3, 0.41, 0.22),
        ("stylegan", 0.131, 44.0, 0.55, 0.47),
        ("stylegan2", 0.0634, 24.9, 0.71, 0.58),
    ):
        for metric, value, half in (
            ("kid.domain", kid, 0.02),
            ("fid.domain", fid, 11.0),
            ("precision", precision, 0.08),
            ("recall", recall, 0.09),
        ):
            note = {"kid.domain": "100 subsets of 59", "fid.domain": "biased upwards below 2048 real images"}.get(
                metric, "k = 5"
            )
            rows.append(
                ResultRow("score", metric, value, value - half, value + half, gan=gan, gan_seed=0, note=note, **size)
            )
        rows.append(ResultRow("score", "floor_ratio.fid.domain", fid / 11.0, gan=gan, gan_seed=0, **size))
        for i, name in enumerate(CLASSES):
            value = kid * (1 + 0.3 * i)
            rows.append(
                ResultRow(
                    "score",
                    f"kid.domain.{name}",
                    value,
                    value - 0.05,
                    value + 0.05,
                    n_real=39,
                    n_synthetic=200,
                    gan=gan,
                    gan_seed=0,
                )
            )
            rows.append(
                ResultRow("score", f"recall.{name}", recall - 0.1 * i, n_real=39, n_synthetic=200, gan=gan, gan_seed=0)
            )
    note = "real against real: 20 half splits, their mean and range"
    for metric, value, low, high in (
        ("kid.domain", 0.0051, -0.04, 0.06),
        ("fid.domain", 9.7, 8.7, 10.7),
        ("precision", 0.79, 0.71, 0.87),
        ("recall", 0.81, 0.73, 0.89),
    ):
        rows.append(
            ResultRow(
                "score",
                f"floor.{metric}",
                value,
                low=low,
                high=high,
                n_real=59,
                n_synthetic=0,
                note=note,
            )
        )
    for name in CLASSES:
        rows.append(ResultRow("score", f"floor.kid.domain.{name}", -0.0004, n_real=19, n_synthetic=0, note=note))
    return rows


def classifier_rows() -> list[ResultRow]:
    rng = np.random.default_rng(5)
    rows = []
    arms = [("A", "", None), ("B", "", None), ("C", "", 1.0)] + [("D", gan, 1.0) for gan in GANS if gan != "pggan"]
    base = {"A": 0.851, "B": 0.869, "C": 0.866, "D": 0.872}
    for classifier in ("resnet", "densenet121"):
        for arm, gan, ratio in arms:
            aurocs = []
            for seed in (0, 1):
                cell = {
                    "arm": arm,
                    "gan": gan,
                    "ratio": ratio,
                    "classifier": classifier,
                    "classifier_seed": seed,
                    "n": 71,
                }
                auroc = base[arm] + rng.normal(0, 0.012)
                aurocs.append(auroc)
                rows.append(ResultRow("classify", "auroc", auroc, auroc - 0.06, auroc + 0.05, **cell))
                for metric, value in (
                    ("auprc", auroc - 0.07),
                    ("balanced_accuracy", auroc - 0.13),
                    ("brier", 0.31),
                    ("ece", 0.08),
                ):
                    rows.append(ResultRow("classify", metric, value + rng.normal(0, 0.01), **cell))
                for i, name in enumerate(CLASSES):
                    rows.append(ResultRow("classify", f"auroc.{name}", auroc + 0.03 - 0.03 * i, **cell))
                    rows.append(
                        ResultRow("classify", f"sensitivity.{name}", 0.8 - 0.1 * i + rng.normal(0, 0.03), **cell)
                    )
            mean, note = float(np.mean(aurocs)), f"SD over seeds {np.std(aurocs, ddof=1):.3g}"
            pooled = {"arm": arm, "gan": gan, "ratio": ratio, "classifier": classifier, "n": 23, "note": note}
            rows.append(ResultRow("arm", "auroc", mean, mean - 0.07, mean + 0.06, **pooled))
    return rows


def contrast_rows() -> list[ResultRow]:
    rows = []
    for classifier, shift in (("resnet", 0.0), ("densenet121", 0.004)):
        for gan, value in (("dcgan", -0.021), ("stylegan", 0.003), ("stylegan2", 0.012)):
            for arm, extra in (("D-B", 0.0), ("D-C", 0.005)):
                v = value + shift + extra
                rows.append(
                    ResultRow(
                        "contrast",
                        "auroc",
                        v,
                        v - 0.042,
                        v + 0.039,
                        n=23,
                        gan=gan,
                        ratio=1.0,
                        arm=arm,
                        classifier=classifier,
                        note="p=0.62, Holm p=1, SD over seeds 0.011",
                    )
                )
    return rows


CLAIM_TEXTS = {
    "memorisation": ("a GAN merely memorises", "Webster et al. 2019", "excess.copies", "copies", 0.01),
    "droplets": ("AdaIN leaves water droplets, from 64x64 up", "Karras et al. 2020", "droplets", "droplets", 0.05),
    "mapping_disentangles": (
        *("a mapping network disentangles: w is straighter than z", "Karras et al. 2019"),
        *("separability.w / separability.z", "path_length", 1.0),
    ),
    "stddev_widens": (
        *("minibatch standard deviation widens variation", "Karras et al. 2018"),
        *("difference in recall", "fidelity", 0.0),
    ),
}


CLAIM_METRICS = {
    "memorisation": ("excess.copies", "value", ""),
    "droplets": ("droplets", "value", ""),
    "mapping_disentangles": ("separability.w", "ratio", "separability.z"),
    "stddev_widens": ("recall", "difference", ""),
}


def verdicts() -> tuple[Verdict, ...]:
    """Every kind of verdict: both ways, undecided for its interval, and undecided for want of a twin."""
    told = (
        ("memorisation", "dcgan", "", "not shown", -0.01, -0.02, 0.004, ""),
        ("memorisation", "stylegan", "", "shown", 0.21, 0.17, 0.25, ""),
        ("memorisation", "stylegan2", "", "cannot tell at this n", 0.02, -0.01, 0.06, ""),
        ("stddev_widens", "stylegan", "", "cannot tell at this n", 0.47, 0.38, 0.56, "train it with stddev_group: 0"),
        ("mapping_disentangles", "stylegan2", "", "shown", 0.62, 0.4, 0.81, ""),
        ("mapping_disentangles", "stylegan", "", "not shown", 1.9, 1.2, None, ""),
        ("droplets", "stylegan", "", "shown", 0.35, 0.29, 0.42, ""),
    )
    return tuple(
        Verdict(
            claim=claim,
            text=CLAIM_TEXTS[claim][0],
            source=CLAIM_TEXTS[claim][1],
            check=CLAIM_TEXTS[claim][2],
            metric="recall" if remedy else CLAIM_TEXTS[claim][2],
            probe=CLAIM_TEXTS[claim][3],
            leading=True,
            gan=gan,
            against=against,
            verdict=verdict,
            value=value,
            low=low,
            high=high,
            side="below" if claim == "mapping_disentangles" else "above",
            threshold=CLAIM_TEXTS[claim][4],
            reason="fixed before anything was measured",
            seeds=1,
            n_real=118,
            n_synthetic=600,
            remedy=remedy,
            of=CLAIM_METRICS[claim][0],
            relation=CLAIM_METRICS[claim][1],
            over=CLAIM_METRICS[claim][2],
        )
        for claim, gan, against, verdict, value, low, high, remedy in told
    )


def probe_rows() -> list[ResultRow]:
    """Figures of the probes behind the verdicts, and one that only some GANs have."""
    size = {"gan_seed": 0, "n_real": 118, "n_synthetic": 600}
    rows = [ResultRow("probe", "copies", 0.02, 0.01, 0.03, gan=gan, **size) for gan in GANS if gan != "pggan"]
    return [*rows, ResultRow("probe", "ppl.w", 152.0, 140.0, 163.0, gan="stylegan", **size)]


def write_scorecard(folder: Path, gan: str) -> Path:
    """A scorecard artifact's files: a picture, a small figure, and a probe that failed."""
    rng = np.random.default_rng(3)
    (folder / "pictures").mkdir(parents=True)
    pairs = [np.hstack([phantom("nodule", rng, noise) for _ in range(5)]) for noise in (0.2, 0.0)]
    np.save(folder / "pictures" / "copies.npy", np.vstack(pairs))
    spot = 255 * np.exp(-((np.mgrid[:64, :64] - 20) ** 2).sum(axis=0) / 18)
    np.save(folder / "pictures" / "droplets.npy", spot.astype(np.uint8))
    lines = {
        name: [[x, scale * x * math.exp(-x)] for x in np.linspace(0, 6, 24)] for name, scale in (("z", 3), ("w", 9))
    }
    figure = {"lines": lines, "x": "path length of a pair", "y": "pairs", "log": False, "steps": True}
    (folder / "figures.json").write_text(json.dumps({"path_length": figure}))
    missing = {"pinning": "the structure of 3 of 100 pairs moves"} if gan == "dcgan" else {}
    (folder / "missing.json").write_text(json.dumps(missing))
    return folder


def audit() -> list[dict[str, object]]:
    """Header fields with each verdict, as a dataset artifact keeps them."""
    figures = {
        "StudyDate": (0.55, 0.43, 0.68, 0.19, 1.0, 0.54, 0.42, 0.66, "cannot tell"),
        "Manufacturer": (0.81, 0.70, 0.92, 0.0002, 0.0026, 0.79, 0.66, 0.91, "leak"),
        "PatientSex": (0.42, 0.38, 0.47, 0.86, 1.0, 0.42, 0.37, 0.46, "not shown"),
        "ContrastBolusAgent": (0.64, 0.56, 0.72, 0.0005, 0.006, 0.62, 0.55, 0.71, "leak"),
        "ConvolutionKernel": (0.59, 0.48, 0.69, 0.094, 1.0, 0.63, 0.52, 0.73, "suspect"),
    }
    notes = {
        "suspect": "its interval over slices excludes 0.5, its corrected p not chance",
        "cannot tell": "cannot tell at this n: the interval reaches 0.68",
    }
    audits = []
    for field, (auc, low, high, p, corrected, slice_auc, slice_low, slice_high, verdict) in figures.items():
        by = "presence" if field == "ContrastBolusAgent" else "value"
        one = FieldAudit(
            field, by, auc, low, high, p, corrected, slice_auc, slice_low, slice_high, patients=71, levels=3,
            filled=0.12, flagged=verdict == "leak", verdict=verdict, note=notes.get(verdict, ""),
        )  # fmt: skip
        audits.append(asdict(one))
    for field in ("Rows", "StationName"):
        audits.append(asdict(FieldAudit(field, patients=71, filled=1.0, note="the same in every slice")))
    audits.append(asdict(FieldAudit("ProtocolName", patients=71, filled=1.0, verdict="cannot tell")))
    return audits


def demo_input(folder: Path) -> ReportInput:
    """Three classes, four GANs of which one diverged, two classifiers, two seeds."""
    rng = np.random.default_rng(0)
    gans = []
    for gan, seconds, sizes in (
        ("dcgan", 41.0, (1_240_000, 1_010_000)),
        ("pggan", 12.0, (2_310_000, 2_330_000)),
        ("stylegan", 96.0, (2_950_000, 2_330_000)),
        ("stylegan2", 118.0, (2_720_000, 2_540_000)),
    ):
        parameters = {"generator": sizes[0], "discriminator": sizes[1]}
        if gan == "pggan":
            lost = curves(rng, 0.3, 4000)
            lost["loss.generator"][-20:] = [(x, 1.5**i) for i, (x, _) in enumerate(lost["loss.generator"][-20:])]
            lost["loss.generator"][-1] = (4000.0, math.nan)
            reason = "generator loss not finite at 4,000 images, after 2 restarts"
            gans.append(GanSummary(gan, 0, "diverged", reason, 4000, seconds, parameters, lost))
            continue
        samples = write_samples(folder / gan, BLUR[gan], len(gans) + 1, walk=True)
        course = curves(rng, BLUR[gan] * 0.5, 18_000)
        card = write_scorecard(folder / f"{gan}-scorecard", gan)
        gans.append(GanSummary(gan, 0, "done", "", 18_000, seconds, parameters, course, samples, card))
    return ReportInput(
        title="quickstart",
        headline="A quickstart proves the plumbing and no clinical point: its patients are procedural phantoms.",
        config={
            "name": "quickstart",
            "seed": 0,
            "data": {"size": [32, 32], "window": [-1000, 400]},
            "gans": [{"name": gan, "images": 18000, "batch": 32} for gan in GANS],
            "classification": {"endpoint": "auroc", "ratios": [1.0], "seeds": [0, 1], "resamples": 2000},
        },
        dataset={
            "channels": 1,
            "height": 32,
            "width": 32,
            "classes": list(CLASSES),
            "value_range": {"low": -1000.0, "high": 400.0, "unit": "HU"},
            "window": "lung, named in the configuration",
            "split": "by patient, stratified by class",
            "counts": {
                split: {name: {"slices": n + i, "patients": p} for i, name in enumerate(CLASSES)}
                for split, n, p in (("train", 39, 13), ("validation", 12, 4), ("test", 23, 8))
            },
            "found": {
                "files": 236,
                "kept": 225,
                "duplicates": 6,
                "quarantined": 3,
                "set_aside": 2,
                "unlabelled": 0,
                "slices": 231,
            },
            "quarantine": {
                "reasons": [
                    {"status": "quarantined", "reason": "truncated pixel data", "count": 2},
                    {"status": "quarantined", "reason": "not a DICOM file", "count": 1},
                    {"status": "set aside", "reason": "localizer", "count": 2},
                ],
                "files": [
                    {"file": "patient-017/slice-2.dcm", "status": "quarantined", "reason": "truncated pixel data"},
                    {"file": "notes.txt", "status": "quarantined", "reason": "not a DICOM file"},
                ],
            },
            "audit": audit(),
            "near_duplicates": {
                "status": "done",
                "images": 231,
                "pairs": 2,
                "across_splits": 1,
                "images_across_splits": 2,
                "examples": [[17, 201], [40, 43]],
                "distance": 10,
                "note": "",
            },
            "warnings": ["The header field Manufacturer predicts the class on its own (AUC 0.81, 0.70 to 0.92)."],
        },
        real_samples=write_samples(folder / "real", 0.0, 0, walk=False),
        gans=tuple(gans),
        rows=(*score_rows(), *classifier_rows(), *contrast_rows(), *probe_rows()),
        warnings=(
            "23 test patients are too few to show or to exclude a gain below about 0.04 macro AUROC.",
            "1 GAN seed: the variation between trainings was not measured.",
        ),
        links={
            "MLflow": "mlflow ui --backend-store-uri sqlite:///runs/mlflow.db",
            "artifacts": "runs/store",
            "synthetic scans": "runs/store/synthetic/stylegan2-s0-9f2c11d0a4b6e813",
        },
        provenance={"medaug": "0.1.0", "torch": "2.13.0", "device": "cpu, 2 cores, bf16", "wall time": "7.4 min"},
        verdicts=verdicts(),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    target = Path(sys.argv[1])
    write_report(demo_input(target / "samples"), target)
    logging.info("wrote %s", target / "report.html")
