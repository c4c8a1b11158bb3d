"""Fixtures that several tests share. The environment is set before Prefect or MLflow are imported."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from flows.environment import prepare
from pipeline.codes import encode
from pipeline.dataset import dataset_meta, write_index
from pipeline.records import ImageSpec, ValueRange
from pipeline.store import Artifact, Draft, Recipe, Store

# Nothing above imports Prefect or MLflow: they read the environment when they are imported.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="medaug-prefect-")
for _name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
    os.environ.pop(_name, None)
prepare(Path(os.environ["PREFECT_HOME"]))

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _environment_stays() -> Iterator[None]:
    """No test leaves another one its environment, nor MLflow's URI, which a tracker sets for the whole process."""
    before = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    yield
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real data, which lies beside a development checkout and is no part of the project."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real data sets for development are not on this machine")
    return REAL_DATA


MakeDataset = Callable[..., Artifact]


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Writes a small dataset artifact: class k is a bright square in its own corner, in noise."""

    def make(classes: int = 2, size: int = 16, per_split: tuple[int, int, int] = (12, 6, 6), seed: int = 0) -> Artifact:
        rng = np.random.default_rng(seed)
        images, labels, splits, patients = [], [], [], []
        for split, count in enumerate(per_split):
            for patient in range(count):
                label = patient % classes
                image = rng.normal(-0.5, 0.1, (1, size, size))
                row, column = divmod(label, 2)
                half = size // 2
                image[0, row * half : (row + 1) * half, column * half : (column + 1) * half] += 1.0
                images.append(image)
                labels.append(label)
                splits.append(split)
                patients.append(1000 * split + patient)
        codes = encode(np.stack(images))
        names = tuple(f"class{k}" for k in range(classes))
        counts = {
            name: {c: {"slices": n // classes, "patients": n // classes} for c in names}
            for name, n in zip(("train", "validation", "test"), per_split, strict=True)
        }

        def build(draft: Draft) -> None:
            np.save(draft.folder / "images.npy", codes)
            write_index(draft.folder, codes, labels, splits, patients)
            spec = ImageSpec(1, size, size, names)
            draft.meta.update(
                dataset_meta(spec, ValueRange(-1000, 1000, "HU"), False, counts=counts, warnings=[], modality="CT")
            )

        config = {"classes": classes, "size": size, "per_split": list(per_split), "seed": seed}
        return Store(tmp_path / "artifacts").get_or_create(Recipe("dataset", "toy", {}, config, ""), build)

    return make
