"""Synthetic sets in other people's training code: indexing, laziness, workers, sampling, misfits."""

import json

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset, WeightedRandomSampler

import medgan
from medgan import SyntheticDataset
from pipeline.dataset import ScanDataset
from pipeline.records import MedaugError
from pipeline.store import Recipe, Store
from tests.unit.medgan_toys import RANGE, ignore, scans
from tests.unit.test_medgan_sampling import generator

LABELS = [0, 1, 1, 0, 1, 0, 0]


def saved(root, dataset="", height=16, width=16):
    """A generator artifact, trained on the dataset with that digest, as its manifest says."""
    gan = generator("stylegan2", height, width)
    recipe = Recipe("generator", "g", {"dataset": dataset}, {"size": [height, width]}, "test")
    return Store(root).get_or_create(recipe, lambda draft: gan.save(draft.folder)).path


def drawn(root, generator_folder, dataset="", counts=None, seed=0):
    """A synthetic artifact."""
    counts = counts or {"plain": 6, "contrast": 4}

    def build(draft):
        gan = medgan.load(generator_folder, device="cpu")
        draft.meta.update(medgan.synthesize(gan, counts, draft.folder, seed, 1.0, ignore), dataset=dataset)

    return Store(root).get_or_create(Recipe("synthetic", "s", {}, {"counts": counts, "seed": seed}, "test"), build).path


@pytest.fixture
def lazy(tmp_path, monkeypatch):
    monkeypatch.setattr("medgan.sample.BATCH_PIXELS", 3 * 16 * 16)  # three images at a time
    return SyntheticDataset(saved(tmp_path), LABELS, seed=4)


def test_an_image_is_the_same_to_the_bit_however_it_is_asked_for(lazy):
    assert lazy._loaded().batch == 3
    backwards = {place: lazy[place]["image"] for place in (6, 2, 4, 0, 1, 5, 3)}
    alone = SyntheticDataset(lazy.folder, LABELS, seed=4)[5]["image"]
    together = SyntheticDataset(lazy.folder, LABELS, seed=4).tensor()
    assert torch.equal(alone, backwards[5])
    assert torch.equal(together, torch.stack([backwards[place] for place in range(7)]))
    expected = medgan.load(lazy.folder, device="cpu").sample(LABELS, seed=4)
    torch.testing.assert_close(together, expected, atol=2 / 65535, rtol=0)
    assert len({image.numpy().tobytes() for image in together}) == 7


def test_only_the_batches_asked_for_are_drawn(lazy):
    lazy[6], lazy[-1]
    assert sorted(lazy._drawn) == [2]
    assert sorted(lazy.draw()._drawn) == [0, 1, 2]


def test_indices(lazy):
    assert torch.equal(lazy[-2]["image"], lazy[5]["image"])
    assert torch.equal(lazy[np.int64(3)]["image"], lazy[3]["image"])
    assert [item["label"] for item in lazy[1:6:2]] == [1, 0, 0]
    assert (lazy[2]["label"], lazy[2]["synthetic"]) == (1, True)
    for outside in (7, -8):
        with pytest.raises(IndexError):
            lazy[outside]


def test_transform_gets_the_dictionary(lazy):
    lazy.transform = lambda item: (item["image"].mean(), item["label"])
    assert lazy[1][1] == 1


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("early", [False, True])
def test_workers_give_what_the_process_itself_gives(lazy, context, early):
    expected = SyntheticDataset(lazy.folder, LABELS, seed=4).tensor()
    if early:
        lazy.draw()
    loader = DataLoader(lazy, batch_size=2, num_workers=2, multiprocessing_context=context, timeout=120)
    batches = list(loader)
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), expected)
    assert torch.cat([batch["label"] for batch in batches]).tolist() == LABELS


def test_beside_any_torch_dataset(tmp_path):
    folder = saved(tmp_path)
    pairs = SyntheticDataset(folder, LABELS, transform=lambda item: (item["image"], torch.tensor(item["label"])))
    real = TensorDataset(torch.zeros(5, 1, 16, 16), torch.zeros(5, dtype=torch.int64))
    both = ConcatDataset([real, pairs])
    images, labels = next(iter(DataLoader(both, batch_size=12)))
    assert images.shape == (12, 1, 16, 16)
    assert labels.tolist() == [0] * 5 + LABELS


def test_weights_give_each_side_and_each_class_its_share(tmp_path):
    synthetic = SyntheticDataset(saved(tmp_path), LABELS)
    real = [0] * 9 + [1]
    weights = synthetic.weights(real, 0.25)
    np.testing.assert_allclose(weights, [0.75 / 10] * 10 + [0.25 / 7] * 7)
    weights = synthetic.weights(real, 0.25, balance=True)
    labels = np.array(real + LABELS)
    assert weights[:10].sum() == pytest.approx(0.75)
    assert weights[10:].sum() == pytest.approx(0.25)
    assert weights[labels == 1].sum() == pytest.approx(0.5)
    sampler = WeightedRandomSampler(weights.tolist(), 4000, generator=torch.Generator().manual_seed(0))
    assert np.mean(np.array(list(sampler)) >= 10) == pytest.approx(0.25, abs=0.03)
    assert synthetic.weights([], 1.0).shape == (7,)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(tmp_path, share):
    with pytest.raises(MedaugError, match=r"share .*: expected 0 to 1"):
        SyntheticDataset(saved(tmp_path), LABELS).weights([0, 1], share)


def test_weights_refuse_what_they_cannot_serve(tmp_path):
    synthetic = SyntheticDataset(saved(tmp_path), LABELS)
    with pytest.raises(MedaugError, match="labels 0 to 2: expected 0 to 1"):
        synthetic.weights([0, 2])
    with pytest.raises(MedaugError, match="expected whole numbers"):
        synthetic.weights([0.9, 1.7])
    with pytest.raises(MedaugError, match="asks for real images"):
        synthetic.weights([], 0.5)


def test_beside_the_real_data_it_was_made_from(tmp_path):
    real = scans(tmp_path)
    folder = saved(tmp_path, real.artifact.digest)
    assert len(SyntheticDataset(folder, LABELS, real=real)) == 7
    assert len(SyntheticDataset(drawn(tmp_path, folder, real.artifact.digest), real=real)) == 10


def test_a_generator_of_another_split_is_refused_as_a_leak(tmp_path):
    real, other = scans(tmp_path), scans(tmp_path, count=26)
    for dataset, said in ((other.artifact.digest, other.artifact.digest[:12]), ("", "an unknown dataset")):
        folder = saved(tmp_path / said, dataset)
        with pytest.raises(MedaugError, match=rf"trained on .*{said}.*\(a leak\)"):
            SyntheticDataset(folder, LABELS, real=real)
        with pytest.raises(MedaugError, match=r"\(a leak\)"):
            SyntheticDataset(drawn(tmp_path / said, folder, dataset), real=real)


def test_an_image_of_the_sealed_test_set_is_refused(tmp_path):
    real = scans(tmp_path)
    fake = drawn(tmp_path, saved(tmp_path, real.artifact.digest), real.artifact.digest)
    sealed = changed(real, test_hashes=[ScanDataset(fake).hashes[3].decode()])
    SyntheticDataset(fake, real=real)
    with pytest.raises(MedaugError, match=r"1 image\(s\) of the sealed test set"):
        SyntheticDataset(fake, real=sealed)


def changed(real, **meta):
    """A copy of the dataset's view that claims another form."""
    data = ScanDataset(real.artifact.path, "train")
    manifest = json.loads(json.dumps(data.artifact.manifest))
    manifest["meta"].update(meta)
    object.__setattr__(data.artifact, "manifest", manifest)
    return data


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"classes": ["contrast", "plain"]}, "classes plain, contrast, but the real data .* has contrast, plain"),
        ({"height": 32}, "size 16x16, but the real data .* has 32x16"),
        ({"channels": 3}, "channels 1, but"),
        ({"value_range": {"low": -1000.0, "high": 400.0, "unit": "1"}}, "unit HU, but the real data .* has 1;"),
        ({"value_range": {"low": -160.0, "high": 240.0, "unit": "HU"}}, "value range -1000 to 400, but"),
    ],
)
def test_other_classes_sizes_or_units_are_refused(tmp_path, meta, message):
    real = scans(tmp_path)
    assert real.value_range == RANGE
    folder = saved(tmp_path, real.artifact.digest)
    with pytest.raises(MedaugError, match=message):
        SyntheticDataset(folder, LABELS, real=changed(real, **meta))


def test_what_is_no_synthetic_set_is_refused(tmp_path):
    real = scans(tmp_path)
    with pytest.raises(MedaugError, match="holds real images"):
        SyntheticDataset(real.artifact.path)
    with pytest.raises(MedaugError, match="labels given, but"):
        SyntheticDataset(drawn(tmp_path, saved(tmp_path)), LABELS)
    with pytest.raises(MedaugError, match=r"labels 0 to 2: expected 0 to 1"):
        SyntheticDataset(saved(tmp_path), [0, 2])
    with pytest.raises(MedaugError, match="0 generators there"):
        SyntheticDataset(tmp_path / "nowhere", LABELS)


def test_a_truncation_that_the_generator_has_not_is_refused_at_once(tmp_path):
    generator("dcgan").save(tmp_path / "g")
    with pytest.raises(MedaugError, match="no w to truncate"):
        SyntheticDataset(tmp_path / "g", LABELS, truncation=0.5)


@pytest.mark.parametrize("truncation", [float("nan"), float("inf"), -3.0, 50.0, 1.0001])
def test_a_truncation_out_of_range_draws_nothing(tmp_path, truncation):
    with pytest.raises(MedaugError, match=r"truncation .*: expected 0 to 1"):
        SyntheticDataset(saved(tmp_path), LABELS, truncation=truncation)


def test_arrays_stand_beside_the_real_data_alone_that_they_were_made_from(tmp_path):
    real, other = scans(tmp_path), scans(tmp_path, count=26)
    fake = drawn(tmp_path, saved(tmp_path, real.artifact.digest), real.artifact.digest)
    assert len(medgan.load_arrays(fake, real=real).y) == 10
    with pytest.raises(MedaugError, match=r"\(a leak\)"):
        medgan.load_arrays(fake, real=other)
    with pytest.raises(MedaugError, match="holds real images"):
        medgan.load_arrays(real.artifact.path, real=real)


def test_arrays_for_scikit_learn(tmp_path):
    real = scans(tmp_path)
    X, y, groups = medgan.load_arrays(real.artifact.path)
    assert X.shape == (24, 256)
    assert X.dtype == np.float32
    np.testing.assert_array_equal(X.reshape(24, 1, 16, 16), real.tensor().numpy())
    assert y.tolist() == [0, 1] * 12
    assert groups.tolist() == list(range(24))
    assert len(medgan.load_arrays(real.artifact.path, "test").y) == 0
    made = medgan.load_arrays(drawn(tmp_path, saved(tmp_path)))
    assert made.y.tolist() == [0] * 6 + [1] * 4
    assert len(set(made.groups.tolist())) == 10
    assert max(made.groups) < 0
