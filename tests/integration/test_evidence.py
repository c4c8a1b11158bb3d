"""The whole way with a fraction of the patients and a filter: planned first, and nothing from outside the fraction."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.dataset import ScanDataset
from pipeline.store import Artifact

SETTINGS = {
    "name": "evidence",
    "data": {
        "preset": "phantom",
        "size": [16, 16],
        "source": {"phantom": {"patients": 30, "size": 32}},
        "keep": ["sex", "manufacturer"],
    },
    "gan_defaults": {
        "images": 64,
        "batch": 8,
        "snapshots": 1,
        "architecture": {"base_channels": 128, "max_channels": 16},
    },
    "gans": {"dcgan": {}},
    "extractor": {"preset": "resnet", "steps": 6, "evaluate_every": 3},
    "synthesis": {"per_class": 80, "dicom": 0},
    "classifiers": {"resnet": {"steps": 6, "evaluate_every": 3}},
    "classification": {"seeds": [0], "fractions": [0.5, 1.0], "filters": ["none", "confidence"]},
}


def run(file: Path, runs: Path) -> tuple[int, dict[str, object], str]:
    command = [sys.executable, "-m", "flows.cli", "run", str(file), "--runs", str(runs), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_fractions_and_filters_from_one_file(tmp_path: Path) -> None:
    file, runs = tmp_path / "experiment" / "evidence.yaml", tmp_path / "runs"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(SETTINGS))
    code, _, errors = run(file, runs)
    assert code == 0, errors[-3000:]
    report = json.loads((runs / "reports" / "evidence" / "report.json").read_text())

    # Planned before anything was trained, and exactly what was then judged.
    (plan,) = (runs / "artifacts" / "registration").iterdir()
    assert Artifact.open(plan).meta["trained_before"] == 0
    judged = {(row["arm"], row["fraction"], row["variant"]) for row in report["rows"] if row["stage"] == "contrast"}
    arms = [(f"D-{c}", f, v) for c in "BC" for f in (None, 0.5) for v in ("", "filter=confidence")]
    assert judged == set(arms)
    assert len(Artifact.open(plan).meta["contrasts"]) == len(arms)
    assert report["provenance"]["endpoint and contrasts registered"].endswith(Artifact.open(plan).digest)

    # Whatever has a part in a fraction's arm comes from a generator of that fraction.
    datasets = {Artifact.open(path).digest: path for path in (runs / "artifacts" / "dataset").iterdir()}
    assert len(datasets) == 2
    half, whole = sorted(datasets, key=lambda digest: len(ScanDataset(datasets[digest], "train")))
    patients = [set(np.unique(ScanDataset(datasets[digest], "train").patients)) for digest in (half, whole)]
    assert patients[0] < patients[1]
    synthetic = [Artifact.open(path) for path in (runs / "artifacts" / "synthetic").iterdir()]
    generators = {
        Artifact.open(path).digest: Artifact.open(path) for path in (runs / "artifacts" / "generator").iterdir()
    }
    assert sorted(one.meta["dataset"] for one in synthetic) == sorted([half, half, whole, whole])
    for one in synthetic:
        assert generators[one.meta["generator"]].manifest["recipe"]["inputs"]["dataset"] == one.meta["dataset"]

    assert {row["metric"] for row in report["rows"] if row["stage"] == "subgroup"} <= {
        f"{metric}.{group}"
        for metric in ("auroc", "auprc", "balanced_accuracy", "brier")
        for group in ("sex.M", "sex.F", "sex.O", "manufacturer.MEDAUG")
    }
    assert run(file, runs)[1]["new_artifacts"] == 0
