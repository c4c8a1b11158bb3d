"""Every preset learns a small distribution that is known: noisy squares, brighter in class 1. Minutes of CPU time."""

import pytest
import torch

from medgan.train import train
from tests.unit.medgan_toys import CONDITIONAL, ignore, scans, tiny

LEVELS = (0.0, 0.6)  # of the square in class 0 and in class 1; -0.5 around it, noise of 0.1
WIDTHS = {
    "mlp": {"hidden": 128, "units": 64, "label_hidden": 32, "label_units": 16, "pieces": 5, "latent": 16},
    "dcgan": {"base_channels": 256, "max_channels": 64, "latent": 16},
    "pggan": {"base_channels": 128, "max_channels": 32, "latent": 16},
    "stylegan": {"base_channels": 128, "max_channels": 32, "latent": 16, "width": 16},
    "stylegan2": {"base_channels": 128, "max_channels": 32, "latent": 16, "width": 16},
}
IMAGES = {"gan": 80_000, "cgan": 80_000, "wgan": 60_000, "wgan_gp": 40_000, "stylegan": 24_000}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return scans(tmp_path_factory.mktemp("data"), count=200)


def samples(preset, data, folder):
    """100 images of each class by a trained generator, float32 [2, 100, 1, 16, 16]."""
    network = tiny(preset).network
    ramp = {"augmentation": {"ramp": 20_000}} if preset == "stylegan2_ada" else {}
    config = tiny(
        preset, architecture=WIDTHS[network], images=IMAGES.get(preset, 12_000), batch=16, snapshots=1, **ramp
    )
    drawn = []

    def look(images_seen, generator):
        drawn.append(torch.stack([generator.sample([label] * 100, seed=1) for label in range(2)]))
        return {}

    for name in ("scratch", "out"):
        (folder / name).mkdir()
    result = train(
        config,
        data,
        0,
        folder / "scratch",
        folder / "out",
        device="cpu",
        log=ignore,
        progress=ignore,
        on_snapshot=look,
    )
    assert result.status == "done"
    return drawn[-1]


@pytest.mark.slow
@pytest.mark.parametrize("preset", CONDITIONAL)
def test_learns_both_classes(preset, data, tmp_path):
    images = samples(preset, data, tmp_path)
    squares, around = images[..., 4:12, 4:12], images[..., :3, :3]
    assert squares.mean(dim=(1, 2, 3, 4)).tolist() == pytest.approx(LEVELS, abs=0.12)
    assert around.mean(dim=(1, 2, 3, 4)).tolist() == pytest.approx([-0.5, -0.5], abs=0.12)
    nearest = (squares.mean(dim=(2, 3, 4)) > 0.3).long()
    accuracy = (nearest == torch.tensor([[0], [1]])).float().mean().item()
    assert accuracy > 0.9
    assert float(images.std(dim=1).mean()) > 0.03  # of the noise's 0.1: not one image a class


@pytest.mark.slow
def test_without_labels_both_kinds_are_drawn(data, tmp_path):
    levels = samples("gan", data, tmp_path)[..., 4:12, 4:12].mean(dim=(2, 3, 4)).flatten()
    apart = (levels[:, None] - torch.tensor(LEVELS)).abs()
    assert apart.min(dim=1).values.mean().item() < 0.15
    shares = apart.argmin(dim=1).bincount(minlength=2) / len(levels)
    assert shares.min().item() > 0.1
