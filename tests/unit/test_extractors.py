"""Feature extractors: Inception as torch-fidelity has it, networks by path, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from flows.configuration import load_experiment
from flows.context import Context
from flows.experiment import open_context
from flows.extract import try_bfloat16
from flows.features import train_extractor
from flows.preflight import check_extractor_names, check_extractors
from flows.score import ROWS, score_floor, score_synthetic
from medgan import extractors
from medgan.extractors import HubConfig, InceptionConfig, TorchScriptConfig, extractor_identity, load_extractor
from medgan.inception import resize
from pipeline.device import has_bfloat16
from pipeline.records import MedaugError, read_rows
from pipeline.store import Artifact, Draft, Recipe
from tests.conftest import MakeDataset
from tests.unit import peers
from tests.unit.test_configuration import QUICKSTART


class Means(torch.nn.Module):
    """Mean and spread of each channel: features that a test can compute by itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1)


def saved(folder: Path, name: str = "means.pt") -> str:
    file = folder / name
    torch.jit.save(torch.jit.script(Means()), str(file))
    return str(file)


def images(n: int = 6, channels: int = 1, size: int = 20, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


# ---------------------------------------------------------------- Inception


@pytest.mark.thorough
@pytest.mark.parametrize(("height", "width"), [(28, 28), (70, 50), (320, 299)])
def test_inception_features_are_torch_fidelitys(tmp_path: Path, height: int, width: int) -> None:
    theirs = peers.random_inception()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = load_extractor(InceptionConfig(str(tmp_path / "weights.pth"), name="random"), "cpu")
    grey = torch.randint(0, 256, (2, 1, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(grey.repeat(1, 3, 1, 1))[0].numpy()
    found = ours.features(grey.float() / 127.5 - 1.0)
    assert found.shape == (2, 2048)
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(expected[0] - expected[1]).max() > 1e-2  # they do tell images apart


@pytest.mark.parametrize(("size", "target"), [((5, 7), (13, 4)), ((1, 3), (4, 9)), ((40, 30), (13, 30))])
def test_resizing_is_that_of_tensorflow_1(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = (
        images(1, 1)[0, 0].numpy()[: size[0], : size[1]] if max(size) <= 20 else images(1, 1, 40)[0, 0, :, :30].numpy()
    )
    expected = np.empty(target)
    for row in range(target[0]):
        for column in range(target[1]):
            y, x = row * size[0] / target[0], column * size[1] / target[1]
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, size[0] - 1), min(left + 1, size[1] - 1)
            upper = image[top, left] * (left + 1 - x) + image[top, right] * (x - left)
            lower = image[bottom, left] * (left + 1 - x) + image[bottom, right] * (x - left)
            expected[row, column] = upper * (top + 1 - y) + lower * (y - top)
    found = resize(torch.from_numpy(image)[None, None].contiguous(), *target)[0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_only_the_published_weights_are_called_inception(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({}, file)
    with pytest.raises(MedaugError, match=r"has SHA-256 .*expected 6726825d"):
        load_extractor(InceptionConfig(str(file)), "cpu")
    with pytest.raises(MedaugError, match="do not fit the network"):
        load_extractor(InceptionConfig(str(file), name="other"), "cpu")
    file.write_bytes(b"no weights")
    with pytest.raises(MedaugError, match=r"extractor other: .*weights\.pth"):
        load_extractor(InceptionConfig(str(file), name="other"), "cpu")
    with pytest.raises(MedaugError, match="no such file"):
        load_extractor(InceptionConfig(str(tmp_path / "absent")), "cpu")


def test_a_download_with_other_bytes_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served.pth").write_bytes(b"other bytes")
    monkeypatch.setattr(extractors, "INCEPTION_URL", (tmp_path / "served.pth").as_uri())
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    with pytest.raises(MedaugError, match="no download from") as caught:
        load_extractor(InceptionConfig("download"), "cpu")
    assert "\n" not in str(caught.value)
    assert [file for file in (tmp_path / "hub").rglob("*") if file.is_file()] == []
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", extractors.file_sha256(tmp_path / "served.pth"))
    assert extractors.inception_weights(InceptionConfig("download")).read_bytes() == b"other bytes"


# ---------------------------------------------------------------- networks by path


def test_a_torchscript_file_gets_its_images_as_configured(tmp_path: Path) -> None:
    config = TorchScriptConfig("means", saved(tmp_path), channels=3, mean=(0.5, 0.4, 0.0), std=(0.5, 0.2, 1.0))
    grey = images()
    unit = (grey.double() + 1.0) / 2.0
    found = load_extractor(config, "cpu").features(grey, batch=4)
    assert found.dtype == np.float32
    for channel, (mean, std) in enumerate(zip(config.mean, config.std, strict=True)):
        expected = ((unit - mean) / std)[:, 0]
        np.testing.assert_allclose(found[:, channel], expected.mean(dim=(1, 2)), atol=1e-5)
        np.testing.assert_allclose(found[:, 3 + channel], expected.std(dim=(1, 2)), rtol=1e-4)
    resized = load_extractor(TorchScriptConfig("means", saved(tmp_path), size=(5, 5)), "cpu").features(grey)
    assert (resized[:, 1] < 0.5 * grey.std(dim=(1, 2, 3)).numpy()).all()  # noise is averaged, not sampled


def test_a_hub_repository_by_path(tmp_path: Path) -> None:
    (tmp_path / "hubconf.py").write_text(
        "import torch\n"
        "def maps(scale):\n"
        "    network = torch.nn.Conv2d(1, 2, 1).requires_grad_(False)\n"
        "    network.weight.fill_(scale)\n"
        "    network.bias.fill_(1.0)\n"
        "    return network\n"
    )
    config = HubConfig("maps", str(tmp_path), entry="maps", arguments={"scale": 3.0})
    grey = images()
    found = load_extractor(config, "cpu").features(grey)
    np.testing.assert_allclose(found, (3.0 * grey.mean(dim=(2, 3)) + 1.0).expand(-1, 2).numpy(), rtol=1e-4, atol=1e-5)
    before = extractor_identity(config)
    (tmp_path / "hubconf.py").write_text((tmp_path / "hubconf.py").read_text() + "# changed\n")
    assert extractor_identity(config) != before


def test_the_identity_is_of_contents_and_preparation_not_of_names(tmp_path: Path) -> None:
    config = TorchScriptConfig("means", saved(tmp_path))
    (tmp_path / "elsewhere.pt").write_bytes(Path(config.path).read_bytes())
    assert extractor_identity(TorchScriptConfig("other", str(tmp_path / "elsewhere.pt"))) == extractor_identity(config)
    assert extractor_identity(TorchScriptConfig("means", config.path, channels=3)) != extractor_identity(config)


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    file = saved(tmp_path)
    (tmp_path / "text.pt").write_text("no network")
    cases = (
        (TorchScriptConfig("x", str(tmp_path / "absent.pt")), images(), "absent.pt"),
        (TorchScriptConfig("x", str(tmp_path / "text.pt")), images(), "does not load"),
        (HubConfig("x", str(tmp_path)), images(), r"hubconf\.py"),
        (TorchScriptConfig("x", file, channels=3), images(channels=2), "2 channels, expected 3"),
        (TorchScriptConfig("x", file, mean=(0.1, 0.2)), images(channels=3), "fails on images"),
        (TorchScriptConfig("x", file), images(0), "N above 0"),
    )
    for config, given, message in cases:
        with pytest.raises(MedaugError, match=message) as caught:
            load_extractor(config, "cpu").features(given)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("[{kind: inception, weigths: x}]", "unknown key .*weigths.*did you mean 'weights'"),
        ("[{kind: inceptoin, weights: x}]", "'inceptoin'.*'inception', 'torchscript', 'hub'"),
        ("[{kind: torchscript, name: a.b, path: x}]", "expected letters, digits"),
        ("[{kind: torchscript, name: domain, path: x}]", "not 'domain'"),
        ("[{kind: torchscript, name: inception, path: x}]", "published weights"),
        ("[{kind: hub, name: a, path: x}, {kind: hub, name: a, path: y}]", "a is there twice"),
    ],
)
def test_configurations_that_are_refused(override: str, message: str) -> None:
    with pytest.raises(MedaugError, match=message) as caught:
        load_experiment(QUICKSTART, [f"extractors={override}"])
    assert "\n" not in str(caught.value)


def test_extractors_are_tried_before_anything_starts(tmp_path: Path) -> None:
    good = f"extractors=[{{kind: torchscript, name: means, path: {saved(tmp_path)}}}]"
    config = load_experiment(QUICKSTART, [good])
    check_extractors(config)
    check_extractor_names(config, ("a", "b"))
    with pytest.raises(MedaugError, match="is a class too"):
        check_extractor_names(config, ("a", "means"))
    with pytest.raises(MedaugError, match="no such file"):
        check_extractors(load_experiment(QUICKSTART, ["extractors=[{kind: inception, weights: nowhere.pth}]"]))


# ---------------------------------------------------------------- bfloat16


@pytest.mark.skipif(not has_bfloat16("cpu"), reason="this processor does not multiply in bfloat16")
def test_bfloat16_is_taken_where_fid_stays_and_refused_where_it_does_not(tmp_path: Path) -> None:
    class Product(torch.nn.Module):
        """Features that are sums of many products: rounding averages out, unless ``offset`` swamps them."""

        def __init__(self, offset: float):
            super().__init__()
            self.linear = torch.nn.Linear(400, 6, bias=False)  # a bias would come from the unseeded stream
            torch.nn.init.normal_(self.linear.weight, generator=torch.Generator().manual_seed(0))
            self.offset = offset

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.flatten(1) + self.offset)

    decisions = {}
    for offset in (0.0, 300.0):
        torch.jit.save(torch.jit.script(Product(offset)), str(tmp_path / "product.pt"))
        extractor = load_extractor(TorchScriptConfig("product", str(tmp_path / "product.pt")), "cpu")
        decisions[offset] = try_bfloat16(extractor, images(600))
    assert decisions[0.0][0] == "bfloat16"
    assert decisions[300.0][0] == "float32"
    assert "more than 0.5 %" in decisions[300.0][1]


# ---------------------------------------------------------------- the score stage


def drawn_from(context: Context, dataset: Artifact) -> Artifact:
    """A synthetic artifact that holds the dataset's own images."""

    def build(draft: Draft) -> None:
        for name in ("images.npy", "index.npz"):
            shutil.copy(dataset.path / name, draft.folder / name)
        draft.meta.update({**dataset.meta, "synthetic": True, "gan": "dcgan", "gan_seed": 0})

    return context.store.get_or_create(Recipe("synthetic", "copier", {"dataset": dataset.digest}, {}, ""), build)


@pytest.mark.thorough
def test_the_score_stage_measures_by_every_extractor(tmp_path: Path, make_dataset: MakeDataset) -> None:
    dataset = make_dataset(per_split=(56, 8, 8))
    overrides = [
        f"extractors=[{{kind: torchscript, name: means, path: {saved(tmp_path)}}}]",
        "extractor.steps=4",
        "extractor.evaluate_every=2",
    ]
    config = load_experiment(QUICKSTART, overrides, runs=tmp_path / "runs")
    config.runs.mkdir()
    context = open_context(config, dataset)
    domain = train_extractor.fn(context, dataset.path)
    synthetic = drawn_from(context, dataset)
    scored = score_synthetic.fn(context, dataset.path, domain, synthetic.path)
    floor = score_floor.fn(context, dataset.path, domain)

    rows = {row.metric: row for row in read_rows(scored / ROWS)}
    for base in (
        "fid.domain",
        "fid.means",
        "kid.domain",
        "kid.means",
        "precision",
        "precision.means",
        "coverage.means",
    ):
        assert {base, f"{base}.class0", f"{base}.class1"} <= set(rows)
    assert {row.gan for row in rows.values()} == {"dcgan"}
    assert rows["coverage.means"].value > 0.9
    floors = {row.metric for row in read_rows(floor / ROWS)}
    assert {"floor.fid.means", "floor.recall.means", "floor.recall", "floor.kid.means.class1"} <= floors

    kept = sorted((tmp_path / "runs" / "artifacts" / "features").glob("*/manifest.json"))
    manifests = [json.loads(file.read_text()) for file in kept]
    # real and synthetic for each extractor; the floor found the real ones
    assert sorted(manifest["meta"]["extractor"] for manifest in manifests) == ["domain", "domain", "means", "means"]
    before = [file.stat().st_mtime_ns for file in kept]
    assert score_floor.fn(context, dataset.path, domain) == floor
    assert [file.stat().st_mtime_ns for file in kept] == before
