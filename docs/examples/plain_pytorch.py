"""A plain PyTorch training loop on real and synthetic images together.

python docs/examples/plain_pytorch.py runs/artifacts/dataset/NAME runs/artifacts/synthetic/NAME
"""

import argparse

import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, WeightedRandomSampler

from medgan import SyntheticDataset
from pipeline import ScanDataset


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", help="a dataset artifact")
    parser.add_argument("synthetic", help="a synthetic artifact drawn by a GAN that was trained on it")
    parser.add_argument("--share", type=float, default=0.5, help="of synthetic images in what the network sees")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    torch.manual_seed(0)

    real = ScanDataset(options.dataset, "train")
    synthetic = SyntheticDataset(options.synthetic, real=real)  # refuses other classes, sizes, units, another split
    weights = synthetic.weights(real.labels, options.share, balance=True)
    sampler = WeightedRandomSampler(weights.tolist(), 32 * options.steps)
    loader = DataLoader(ConcatDataset([real, synthetic]), batch_size=32, sampler=sampler)

    classes = len(real.spec.classes)
    network = nn.Sequential(
        nn.Conv2d(real.spec.channels, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, classes),
    )
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    seen = 0
    for batch in loader:
        loss = nn.functional.cross_entropy(network(batch["image"]), batch["label"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen += int(batch["synthetic"].sum())

    held_out = ScanDataset(options.dataset, "validation")  # real patients alone
    with torch.inference_mode():
        answers = network(held_out.tensor()).argmax(dim=1)
    correct = int((answers == torch.from_numpy(held_out.labels)).sum())
    print(
        f"{len(real)} real and {len(synthetic)} synthetic images; {seen} of {32 * options.steps} drawn were synthetic"
    )
    print(f"last loss {loss.item():.3f}; {correct} of {len(held_out)} validation images right")


if __name__ == "__main__":
    main()
