"""The worked examples under docs/ run as they are printed there, on a tiny dataset and a tiny generator."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from monai.utils import set_determinism

import medgan
from medgan.sample import LoadedGenerator
from pipeline.records import ImageSpec, MedaugError, ValueRange
from pipeline.store import Artifact, Draft, Recipe, Store
from tests.conftest import MakeDataset
from tests.unit.medgan_toys import built, ignore, tiny

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
Run = Callable[..., str]
pytestmark = pytest.mark.thorough


def drawn_from(dataset: Artifact, root: Path) -> Path:
    """A synthetic artifact of an untrained generator that says it was trained on the dataset."""
    config, spec = tiny("dcgan"), ImageSpec(1, 16, 16, tuple(dataset.meta["classes"]))
    architecture = built(config, spec)
    value_range = ValueRange(**dataset.meta["value_range"])
    stage = architecture.stage_at(10**9)
    generator = LoadedGenerator(
        config, spec, value_range, architecture.generator.requires_grad_(False).eval(), stage, torch.device("cpu")
    )

    def build(draft: Draft) -> None:
        counts = dict.fromkeys(spec.classes, 10)
        draft.meta.update(medgan.synthesize(generator, counts, draft.folder, 0, 1.0, ignore), dataset=dataset.digest)

    return Store(root).get_or_create(Recipe("synthetic", "s", {"dataset": dataset.digest}, {}, "test"), build).path


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs an example as a program, in this process, since imports take longer than the work."""

    def run(example: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [example, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / example), run_name="__main__")
        return capsys.readouterr().out

    yield run
    set_determinism(None)


@pytest.fixture
def sets(make_dataset: MakeDataset, tmp_path: Path) -> tuple[Path, Path]:
    dataset = make_dataset(per_split=(24, 12, 6))
    return dataset.path, drawn_from(dataset, tmp_path)


def test_plain_pytorch(sets: tuple[Path, Path], output: Run) -> None:
    text = output("plain_pytorch.py", *sets, "--steps", 30, "--share", 0.25)
    match = re.search(r"24 real and 20 synthetic images; (\d+) of 960 drawn were synthetic", text)
    assert match is not None, text
    assert int(match[1]) == pytest.approx(240, abs=60)
    assert re.search(r"last loss \d+\.\d+; \d+ of 12 validation images right", text)


@pytest.mark.parametrize(("prob", "replaced"), [(0, 0), (1, 24)])
def test_monai_cache(sets: tuple[Path, Path], output: Run, prob: int, replaced: int) -> None:
    text = output("monai_cache.py", *sets, "--epochs", 2, "--prob", prob)
    assert text.count(f"{replaced} of 24 images were synthetic") == 2
    assert re.search(r"\d+ of 12 validation images right", text)


def test_sklearn_features(sets: tuple[Path, Path], output: Run) -> None:
    text = output("sklearn_features.py", *sets)
    figures = [float(figure) for figure in re.findall(r"AUROC (\d\.\d{3})", text)]
    assert len(figures) == 3, text
    assert min(figures[:2]) > 0.9  # a bright square tells these classes apart
    assert "24 real, 20 synthetic, 12 validation images" in text


def test_an_example_refuses_a_generator_of_another_split(
    sets: tuple[Path, Path], output: Run, make_dataset: MakeDataset
) -> None:
    other = make_dataset(per_split=(26, 12, 6))
    with pytest.raises(MedaugError, match=r"\(a leak\)"):
        output("plain_pytorch.py", other.path, sets[1])
