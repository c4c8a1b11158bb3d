"""``RandSynthetic`` among MONAI's transforms, seeded as they are, and a training in Lightning."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor
from monai.data import DataLoader as MonaiDataLoader
from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose, EnsureTyped, Lambdad, RandFlipd, Randomizable
from torch.utils.data import ConcatDataset, DataLoader

from medgan import RandSynthetic, SyntheticDataset
from pipeline.dataset import ScanDataset
from pipeline.records import MedaugError
from tests.unit.medgan_toys import scans
from tests.unit.test_synthetic_dataset import drawn, saved


@pytest.fixture
def synthetic(tmp_path):
    return SyntheticDataset(drawn(tmp_path, saved(tmp_path)))


def items(count, size=16):
    """Real images that no synthetic one looks like: constant 2."""
    return [{"image": torch.full((1, size, size), 2.0), "label": i % 2, "name": i} for i in range(count)]


def places(outputs, synthetic):
    """For each image its place in the synthetic set; -1 for a real one."""
    known = {synthetic[i]["image"].numpy().tobytes(): i for i in range(len(synthetic))}
    return [known.get(np.asarray(item["image"]).tobytes(), -1) for item in outputs]


def test_it_replaces_as_often_as_told_and_by_the_own_class_alone(synthetic):
    transform = RandSynthetic(synthetic, 0.3).set_random_state(0)
    outputs = [transform(item) for item in items(2000)]
    found = np.array(places(outputs, synthetic))
    assert np.mean(found >= 0) == pytest.approx(0.3, abs=0.03)
    assert [item["synthetic"] for item in outputs] == (found >= 0).tolist()
    labels = np.array([item["label"] for item in outputs])
    assert (synthetic.labels[found[found >= 0]] == labels[found >= 0]).all()
    assert set(found.tolist()) == set(range(-1, 10))  # every image has its turn
    assert [item["name"] for item in outputs] == list(range(2000))


@pytest.mark.parametrize(("prob", "share"), [(0.0, 0), (1.0, 1)])
def test_never_and_always(synthetic, prob, share):
    transform = RandSynthetic(synthetic, prob)
    assert np.mean(np.array(places([transform(item) for item in items(40)], synthetic)) >= 0) == share


@pytest.mark.parametrize("prob", [-0.1, 1.5, float("nan")])
def test_a_probability_out_of_range_is_refused(synthetic, prob):
    with pytest.raises(MedaugError, match=r"prob .*: expected 0 to 1"):
        RandSynthetic(synthetic, prob)


def test_what_does_not_fit_is_refused(synthetic, tmp_path):
    transform = RandSynthetic(synthetic, 1.0)
    with pytest.raises(MedaugError, match=r"\(1, 16, 16\), training image \(1, 32, 32\)"):
        transform(items(1, 32)[0])
    with pytest.raises(MedaugError, match="label 2: no synthetic image"):
        transform({"image": torch.zeros(1, 16, 16), "label": 2})
    with pytest.raises(MedaugError, match=r"uint8: expected floats in \[-1, 1\]"):
        transform({"image": np.zeros((1, 16, 16), np.uint8), "label": 0})
    one_class = SyntheticDataset(drawn(tmp_path, saved(tmp_path), counts={"plain": 3}))
    with pytest.raises(MedaugError, match="label 1: no synthetic image"):
        RandSynthetic(one_class, 1.0)(items(2)[1])


def test_arrays_stay_arrays_and_the_input_stays_as_it_is(synthetic):
    item = {"picture": np.zeros((1, 16, 16), np.float32), "class": np.int64(1)}
    output = RandSynthetic(synthetic, 1.0, image_key="picture", label_key="class")(item)
    assert isinstance(output["picture"], np.ndarray)
    assert not item["picture"].any()
    assert "synthetic" not in item


def test_real_and_synthetic_images_share_a_batch(synthetic):
    for kind in (torch.float64, torch.float16):
        pictures = [{"image": torch.zeros(1, 16, 16, dtype=kind), "label": 0} for _ in range(16)]
        data = MonaiDataset(pictures, Compose([EnsureTyped("image"), RandSynthetic(synthetic, 0.5)]))  # MetaTensors
        assert {type(item["image"]) for item in data} == {MetaTensor}
        (batch,) = MonaiDataLoader(data, batch_size=16)
        assert batch["image"].shape == (16, 1, 16, 16)
        assert batch["image"].dtype == kind
        assert batch["synthetic"].unique().tolist() == [False, True]


def test_compose_seeds_it(synthetic):
    def run(seed):
        transform = Compose([RandSynthetic(synthetic, 0.5), RandFlipd("image", prob=0.5)]).set_random_state(seed)
        return [np.asarray(transform(item)["image"]) for item in items(50)]

    one, again, other = run(1), run(1), run(2)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_with_monai_it_is_randomizable_and_stays_what_it_is_when_copied(synthetic):
    transform = RandSynthetic(synthetic, 0.5).set_random_state(3)
    expected = places([copy.deepcopy(transform)(item) for item in items(1)] * 2, synthetic)
    for twin in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert isinstance(twin, Randomizable)
        assert isinstance(twin, RandSynthetic)
        assert type(pickle.loads(pickle.dumps(twin))) is type(twin)
        assert places([twin(items(1)[0])], synthetic) == expected[:1]


def test_without_monai_it_works_and_imports_none():
    code = (
        "import sys, medgan, numpy as np, torch\n"
        "class Fake:\n"
        "    labels = np.array([0]); spec = type('Spec', (), {'classes': ('a',)})\n"
        "    def __getitem__(self, place): return {'image': torch.ones(1, 2, 2)}\n"
        "transform = medgan.RandSynthetic(Fake(), 1.0)\n"
        "assert type(transform) is medgan.RandSynthetic\n"
        "assert transform({'image': torch.zeros(1, 2, 2), 'label': 0})['image'].all()\n"
        "assert 'monai' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_cache_dataset_caches_what_comes_before_it_and_draws_anew(synthetic):
    loaded = []

    def load(image):
        loaded.append(1)
        return image

    transform = Compose([Lambdad("image", load), RandSynthetic(synthetic, 0.5)]).set_random_state(0)
    data = CacheDataset(items(20), transform, num_workers=1, progress=False)
    epochs = [places(list(data), synthetic) for _ in range(2)]
    assert len(loaded) == 20
    assert epochs[0] != epochs[1]
    assert 0 < np.mean(np.array(epochs) >= 0) < 1


def test_workers_of_a_loader_draw_apart_and_each_epoch_anew(synthetic, tmp_path):
    folder = scans(tmp_path, count=64).artifact.path

    def monai():
        data = MonaiDataset(items(64), Compose([RandSynthetic(synthetic, 1.0)]))
        return MonaiDataLoader(data, batch_size=32, num_workers=2)

    def plain():
        data = ScanDataset(folder, transform=RandSynthetic(synthetic, 1.0))
        return DataLoader(data, batch_size=32, num_workers=2)

    def epoch(loader):
        return [places([{"image": image} for image in batch["image"]], synthetic) for batch in loader]

    for make in (monai, plain):
        torch.manual_seed(0)
        loader = make()
        one, two = epoch(loader), epoch(loader)
        assert one[0] != one[1]  # batch k comes from worker k
        assert one != two
        torch.manual_seed(0)
        assert epoch(make()) == one


@pytest.mark.thorough
def test_spawned_workers(synthetic):
    data = MonaiDataset(items(8), Compose([RandSynthetic(synthetic, 1.0)]))
    loader = MonaiDataLoader(data, batch_size=4, num_workers=1, multiprocessing_context="spawn", timeout=120)
    found = [place for batch in loader for place in places([{"image": i} for i in batch["image"]], synthetic)]
    assert min(found) >= 0


def test_beside_a_monai_dataset(synthetic):
    both = ConcatDataset([MonaiDataset([{**item, "synthetic": False} for item in items(4)]), synthetic])
    assert len(both) == 14
    assert [both[i]["synthetic"] for i in (3, 4)] == [False, True]


def test_monai_loads_lazily_drawn_images_beside_real_ones(tmp_path):
    real = scans(tmp_path)
    lazy = SyntheticDataset(saved(tmp_path, real.artifact.digest), [0, 1, 1], real=real)
    (batch,) = MonaiDataLoader(ConcatDataset([real, lazy]), batch_size=27, num_workers=1)
    assert batch["synthetic"].tolist() == [False] * 24 + [True] * 3
    assert torch.equal(batch["image"][24:], lazy.tensor())


@pytest.mark.thorough
def test_a_lightning_module_trains_on_both(tmp_path):
    import lightning

    real = scans(tmp_path)
    folder = saved(tmp_path, real.artifact.digest)
    synthetic = SyntheticDataset(folder, [0, 1] * 12, real=real)

    class Linear(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(256, 2)
            self.seen = []

        def training_step(self, batch, _):
            self.seen += batch["synthetic"].tolist()
            return torch.nn.functional.cross_entropy(self.layer(batch["image"].flatten(1)), batch["label"])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

    module = Linear()
    before = module.layer.weight.detach().clone()
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(ConcatDataset([real, synthetic]), batch_size=16, num_workers=1))
    assert module.seen == [False] * 24 + [True] * 24
    assert not torch.equal(module.layer.weight, before)
