"""Trained generators: deterministic drawing, round trips, synthetic sets."""

import pickle

import numpy as np
import pytest
import torch

import medgan
from medgan.sample import LoadedGenerator, slerp
from medgan.seeds import seeded
from medgan.synthetic import SyntheticDataset
from pipeline.dataset import ScanDataset
from pipeline.records import MedaugError
from pipeline.store import Recipe, Store
from tests.unit.medgan_toys import PRESETS, RANGE, built, spec, tiny


def generator(preset, height=16, width=16, channels=1):
    config = tiny(preset)
    image_spec = spec(height, width, channels)
    architecture = built(config, image_spec).requires_grad_(False).eval()
    for name, parameter in architecture.generator.named_parameters():
        if name.endswith("noise_scale"):  # starts at 0, which would hide the noise
            parameter.fill_(0.1)
    stage = architecture.stage_at(10**9)
    return LoadedGenerator(config, image_spec, RANGE, architecture.generator, stage, torch.device("cpu"))


@pytest.mark.parametrize("preset", PRESETS)
def test_images_follow_from_seed_and_index_alone(preset, monkeypatch):
    gan = generator(preset, 16, 24, 3)
    labels = [0, 1, 1, 0, 1]
    images = gan.sample(labels, seed=5)
    assert images.shape == (5, 3, 16, 24)
    assert images.dtype == torch.float32
    assert -1.0 <= float(images.min()) <= float(images.max()) <= 1.0
    assert torch.equal(gan.sample(labels, seed=5), images)
    torch.testing.assert_close(gan.sample([1, 0], seed=5, start=2), images[2:4], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(gan.sample(labels, seed=6), images)
    monkeypatch.setattr("medgan.sample.BATCH_PIXELS", 2 * 16 * 24)  # two at a time
    assert gan.batch == 2
    torch.testing.assert_close(gan.sample(labels, seed=5), images, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_saved_and_loaded(preset, tmp_path):
    gan = generator(preset, 24, 16, 2)
    gan.save(tmp_path / "a", seed=1)
    loaded = medgan.load(tmp_path / "a", device="cpu")
    assert (loaded.config, loaded.spec, loaded.value_range, loaded.stage) == (
        gan.config,
        gan.spec,
        gan.value_range,
        gan.stage,
    )
    torch.testing.assert_close(loaded.sample([0, 1], seed=2), gan.sample([0, 1], seed=2), rtol=1e-4, atol=1e-4)
    assert torch.equal(medgan.load(tmp_path, device="cpu").sample([1]), loaded.sample([1]))  # a folder above


@pytest.mark.parametrize("preset", PRESETS)
def test_walk_is_smooth_and_of_one_class(preset):
    gan = generator(preset)
    walk = gan.interpolate(1, 17, seed=4)
    assert walk.shape == (17, 1, 16, 16)
    steps = (walk[1:] - walk[:-1]).abs().mean(dim=(1, 2, 3))
    apart = (walk[0] - walk[8]).abs().mean()  # two independent latents
    assert 0 < float(steps.max()) < 0.8 * float(apart) + 1e-4
    assert torch.equal(walk, gan.interpolate(1, 17, seed=4))
    assert gan.interpolate(0, 1).shape == (1, 1, 16, 16)


def test_slerp_keeps_to_the_great_circle():
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    torch.testing.assert_close(slerp(a, b, 0.5), torch.full((1, 2), 2.0**0.5))
    torch.testing.assert_close(slerp(a, b, 1.0), b, atol=1e-6, rtol=0)
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)


@pytest.mark.parametrize("preset", ["stylegan", "stylegan2"])
def test_truncation_narrows(preset):
    gan = generator(preset)
    labels = [0] * 16
    spread = [float(gan.sample(labels, truncation=psi).var(dim=0).mean()) for psi in (1.0, 0.5)]
    assert spread[1] < spread[0]


def test_truncation_without_w_is_refused():
    with pytest.raises(MedaugError, match=r"truncation 0\.5: pggan has no w"):
        generator("pggan").sample([0], truncation=0.5)


@pytest.mark.parametrize("labels", [[2], [-1, 0]])
def test_labels_out_of_range(labels):
    with pytest.raises(MedaugError, match=r"expected 0 to 1 \(plain, contrast\)"):
        generator("dcgan").sample(labels)


@pytest.mark.parametrize("labels", [[0.9, 1.7], torch.tensor([0.0, 1.0]), torch.tensor([True, False])])
def test_labels_that_are_no_whole_numbers(labels):
    with pytest.raises(MedaugError, match=r"expected whole numbers"):
        generator("dcgan").sample(labels)


def test_labels_of_any_whole_type_name_the_same_images():
    gan = generator("dcgan")
    expected = gan.sample([0, 1])
    for labels in (np.array([0, 1], np.uint8), torch.tensor([0, 1], dtype=torch.int16), [np.int64(0), np.int64(1)]):
        assert torch.equal(gan.sample(labels), expected)
    assert gan.sample([]).shape == (0, 1, 16, 16)


@pytest.mark.parametrize("truncation", [float("nan"), float("inf"), -3.0, 50.0])
@pytest.mark.parametrize("preset", ["dcgan", "stylegan2"])
def test_truncation_out_of_range(preset, truncation):
    with pytest.raises(MedaugError, match=r"truncation .*: expected 0 to 1"):
        generator(preset).sample([0], truncation=truncation)


def test_loading_what_is_no_generator(tmp_path):
    with pytest.raises(MedaugError, match="0 generators there"):
        medgan.load(tmp_path)
    generator("dcgan").save(tmp_path)
    (tmp_path / "generator.safetensors").write_bytes(b"no")
    with pytest.raises(MedaugError, match="not a whole generator"):
        medgan.load(tmp_path)


def artifact(root, gan, counts, seed=1):
    def build(draft):
        draft.meta.update(medgan.synthesize(gan, counts, draft.folder, seed, 1.0, lambda done, total: None))

    return Store(root).get_or_create(Recipe("synthetic", "s", {}, {"counts": counts, "seed": seed}, "test"), build)


def test_synthetic_artifact_reads_like_a_dataset(tmp_path):
    gan = generator("stylegan2")
    made = artifact(tmp_path, gan, {"contrast": 5, "plain": 3})
    scans = ScanDataset(made.path, "train")
    assert scans.labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert scans.synthetic
    assert (scans.spec, scans.value_range) == (gan.spec, RANGE)
    assert set(scans.patients.tolist()) == {-1}
    assert made.meta["counts"] == {"plain": 3, "contrast": 5}
    larger = ScanDataset(artifact(tmp_path, gan, {"contrast": 7, "plain": 4}).path)
    assert np.array_equal(larger.codes[4:9], scans.codes[3:8])  # a larger set begins with the smaller one
    assert len(set(scans.hashes.tolist())) == 8


def test_unknown_class_or_nothing_to_draw(tmp_path):
    gan = generator("dcgan")
    for counts, message in (({"plane": 1}, "unknown class 'plane'"), ({"plain": 0}, "at least one image")):
        with pytest.raises(MedaugError, match=message):
            medgan.synthesize(gan, counts, tmp_path, 0, 1.0, lambda done, total: None)


def test_synthetic_dataset_from_artifact_and_from_generator(tmp_path):
    gan = generator("pggan")
    eager = SyntheticDataset(artifact(tmp_path, gan, {"plain": 2, "contrast": 1}).path)
    assert eager.labels.tolist() == [0, 0, 1]
    assert eager[2]["label"] == 1
    assert eager[2]["synthetic"] is True
    gan.save(tmp_path / "generator")
    lazy = SyntheticDataset(tmp_path / "generator", [0, 1, 0, 1], seed=9)
    assert (lazy.spec, lazy.value_range, len(lazy)) == (gan.spec, RANGE, 4)
    torch.testing.assert_close(lazy[3]["image"], gan.sample([0, 1, 0, 1], seed=9)[3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lazy[-1]["image"], lazy.tensor()[3], rtol=1e-4, atol=1e-4)
    copy = pickle.loads(pickle.dumps(lazy))  # as a DataLoader's worker gets it
    assert torch.equal(copy[1]["image"], lazy[1]["image"])
    with pytest.raises(IndexError):
        lazy[4]
    with pytest.raises(MedaugError, match="expected one label"):
        SyntheticDataset(tmp_path / "generator")


def test_seeds_of_neighbours_share_nothing():
    draws = torch.stack([torch.randn(64, generator=seeded(seed, index)) for seed in range(4) for index in range(4)])
    correlation = torch.corrcoef(draws) - torch.eye(16)
    assert float(correlation.abs().max()) < 0.5
