"""A MONAI workflow: CacheDataset, and a transform that replaces images by synthetic ones while they are loaded.

python docs/examples/monai_cache.py runs/artifacts/dataset/NAME runs/artifacts/synthetic/NAME
"""

import argparse

import torch
from monai.data import CacheDataset, DataLoader
from monai.networks.nets import DenseNet
from monai.transforms import Compose, EnsureTyped, RandAffined, RandGaussianNoised
from monai.utils import set_determinism

from medgan import RandSynthetic, SyntheticDataset
from pipeline import ScanDataset


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", help="a dataset artifact")
    parser.add_argument("synthetic", help="a synthetic artifact drawn by a GAN that was trained on it")
    parser.add_argument("--prob", type=float, default=0.3, help="of replacing an image by a synthetic one of its class")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    set_determinism(0)

    real = ScanDataset(options.dataset, "train")
    synthetic = SyntheticDataset(options.synthetic, real=real)
    transform = Compose(
        [
            EnsureTyped("image"),  # cached; everything from the first random transform on is done anew each time
            RandSynthetic(synthetic, options.prob),
            RandAffined("image", prob=0.5, rotate_range=0.1, translate_range=2, padding_mode="border"),
            RandGaussianNoised("image", prob=0.3, std=0.05),
        ]
    ).set_random_state(0)
    data = CacheDataset(list(real), transform, progress=False)
    loader = DataLoader(data, batch_size=32, shuffle=True)

    network = DenseNet(
        spatial_dims=2,
        in_channels=real.spec.channels,
        out_channels=len(real.spec.classes),
        init_features=16,
        growth_rate=8,
        block_config=(2, 2),
    )
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    for epoch in range(options.epochs):
        losses, replaced = [], 0
        for batch in loader:
            loss = torch.nn.functional.cross_entropy(network(batch["image"].as_tensor()), batch["label"])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            replaced += int(batch["synthetic"].sum())
        mean = sum(losses) / len(losses)
        print(f"epoch {epoch + 1}: mean loss {mean:.3f}; {replaced} of {len(data)} images were synthetic")

    network.eval()
    held_out = ScanDataset(options.dataset, "validation")
    with torch.inference_mode():
        answers = network(held_out.tensor()).argmax(dim=1)
    correct = int((answers == torch.from_numpy(held_out.labels)).sum())
    print(f"{correct} of {len(held_out)} validation images right")


if __name__ == "__main__":
    main()
