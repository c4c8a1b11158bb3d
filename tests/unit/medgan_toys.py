"""Tiny data and tiny versions of every shipped GAN preset, for the generative models' tests."""

import dataclasses

import numpy as np
import torch

from medgan import GanConfig, registry
from medgan.seeds import seeded
from pipeline.codes import encode
from pipeline.config import expand_preset, merge, preset_names
from pipeline.dataset import ScanDataset, dataset_meta, write_index
from pipeline.records import ImageSpec, ValueRange
from pipeline.store import Recipe, Store

PRESETS = preset_names("gan")
CLASSES = ("plain", "contrast")
RANGE = ValueRange(-1000.0, 400.0, "HU")
CONDITIONAL = [preset for preset in PRESETS if preset != "gan"]
SMALL = {
    **{"latent": 8, "label_width": 8, "width": 8, "mapping_layers": 2, "base_channels": 64, "max_channels": 8},
    **{"hidden": 16, "label_hidden": 8, "units": 8, "label_units": 4, "pieces": 3},
}


def tiny(preset, **over):
    """A shipped preset with a few channels, for a few steps of 4 images, in float32."""
    data = expand_preset("gan", preset, None, preset)
    known = {item.name for item in dataclasses.fields(registry.architecture_class(data["network"]).Options)}
    small = {key: value for key, value in SMALL.items() if key in known}
    short = {"images": 32, "batch": 4, "snapshots": 2, "precision": "float32", "architecture": small}
    return GanConfig.from_dict(merge(merge(data, short), over))


def spec(height=16, width=16, channels=1, classes=CLASSES):
    return ImageSpec(channels, height, width, classes)


def built(config, image_spec, seed=0):
    """The architecture with its weights drawn."""
    architecture = registry.build(config, image_spec)
    architecture.initialise(seeded(seed))
    return architecture


def scans(root, height=16, width=16, channels=1, count=24):
    """The training split of a dataset artifact of noisy squares, class 1 brighter."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = rng.normal(-0.5, 0.1, (count, channels, height, width))
    images[:, :, 4:12, 4:12] += 0.5 + 0.6 * labels[:, None, None, None]
    codes = encode(images)

    def build(draft):
        np.save(draft.folder / "images.npy", codes)
        write_index(draft.folder, codes, labels, [0] * count, range(count))
        draft.meta.update(dataset_meta(spec(height, width, channels), RANGE, False))

    config = {"size": [height, width, channels, count]}
    return ScanDataset(Store(root).get_or_create(Recipe("dataset", "toy", {}, config, "test"), build).path, "train")


def ignore(*_):
    """For logs and progress."""


def randomised(module, seed=0):
    """Every parameter from N(0, 1): weights that start at zero would hide mistakes."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=rng)
    return module
