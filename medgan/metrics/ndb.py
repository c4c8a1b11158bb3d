"""Number of statistically different bins: modes that synthetic images leave out or crowd into.

Richardson and Weiss 2018, "On GANs and GMMs", section 3: k-means divides real images into K bins; synthetic images fall
into the bin of the nearest centre; a bin differs where the shares p and q of both sets do, by the two-proportion z-test

    z = (p − q) / √(P (1 − P) (1/N + 1/M)),    P = (N p + M q) / (N + M),    |z| > 1.96.

NDB/K is the share of bins that differ: about 0.05 for equal distributions of few dimensions, towards 1 under
collapse. Images of one patient fall into one bin more often than images of several do, which the test would take for a
difference: 1/N is therefore multiplied with the bin's design effect, the variance of p between patients over the
binomial one (Kish 1965, section 5.4); with one image a patient it is 1 and the test the paper's. The paper clusters
pixels; here any vectors.

Centres are drawn to the images they are fitted to, which are then tested: in many dimensions new images of the same
distribution fall into other bins (of normal vectors of 512 dimensions, 800 and 800, more than half of the bins
differ). So a share above 0.05 is no sign of collapse for that alone; ``excess.ndb`` is what it is above that of real
images under the same test.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medgan.metrics.features import Z95, Features, as_pair
from medgan.metrics.images import Images, Labels, Picture, as_image_pair, as_numbers, mosaic, real_halves
from medgan.metrics.intervals import clopper_pearson
from medgan.metrics.measured import Measured, TooFewImagesError

MOST_BINS, IMAGES_IN_A_BIN = 100, 16
"""K is the paper's 100, or as many as leave 16 images of the smaller set in a bin on average."""
FEWEST = 4 * IMAGES_IN_A_BIN
ITERATIONS = 50
SPLITS = 10


@dataclass(frozen=True)
class Bins:
    """The bins behind the figure, to be plotted.

    Attributes:
        centres: float64 [K, D].
        real: share of real images in each bin, float64 [K].
        synthetic: share of synthetic ones.
        z: of the test, float64 [K]; above 0 where synthetic images are missing.
        real_bin: bin of each real image, int64 [N].
        synthetic_bin: bin of each synthetic image, int64 [M].
    """

    centres: torch.Tensor
    real: torch.Tensor
    synthetic: torch.Tensor
    z: torch.Tensor
    real_bin: torch.Tensor
    synthetic_bin: torch.Tensor

    @property
    def different(self) -> torch.Tensor:
        """Which bins differ, bool [K]."""
        return self.z.abs() > Z95


def k_means(points: torch.Tensor, bins: int, generator: torch.Generator) -> torch.Tensor:
    """Centres by k-means++ (Arthur and Vassilvitskii 2007) and Lloyd's iterations.

    Args:
        points: float64 [N, D].
        bins: K, at most N.
        generator: of the first centres.

    Returns:
        float64 [K, D].
    """
    centres = points[torch.randint(len(points), (1,), generator=generator)]
    nearest = torch.cdist(points, centres)[:, 0].square()
    while len(centres) < bins:
        # equal points only: any will do
        weight = nearest if nearest.sum() > 0 else torch.ones_like(nearest)
        chosen = points[torch.multinomial(weight, 1, generator=generator)]
        centres = torch.cat([centres, chosen])
        nearest = torch.minimum(nearest, torch.cdist(points, chosen)[:, 0].square())
    member = torch.full((len(points),), -1)
    for _ in range(ITERATIONS):
        before, member = member, assign(points, centres)
        if torch.equal(before, member):
            break
        count = torch.bincount(member, minlength=bins).clamp(min=1)
        moved = torch.zeros_like(centres).index_add_(0, member, points) / count[:, None]
        # an empty bin keeps its centre
        centres = torch.where((torch.bincount(member, minlength=bins) > 0)[:, None], moved, centres)
    return centres


def assign(points: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """The nearest centre of each point, int64 [N]."""
    return torch.cdist(points, centres).argmin(dim=1)


def compare(
    real: torch.Tensor, synthetic: torch.Tensor, patients: torch.Tensor, bins: int, generator: torch.Generator
) -> Bins:
    """Bins of the real points, and the test in each.

    Args:
        real: float64 [N, D].
        synthetic: float64 [M, D].
        patients: of the real points, int64 [N].
        bins: K.
        generator: of the first centres.
    """
    centres = k_means(real, bins, generator)
    real_bin, synthetic_bin = assign(real, centres), assign(synthetic, centres)
    n, m = len(real), len(synthetic)
    p, q = (torch.bincount(member, minlength=bins).double() / len(member) for member in (real_bin, synthetic_bin))
    pooled = (n * p + m * q) / (n + m)
    variance = pooled * (1 - pooled) * (_design_effect(real_bin, patients, p) / n + 1 / m)
    z = torch.where(variance > 0, (p - q) / variance.clamp(min=1e-300).sqrt(), 0.0)
    return Bins(centres, p, q, z, real_bin, synthetic_bin)


def _design_effect(member: torch.Tensor, patients: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Variance of each bin's share between patients over that of independent images, at least 1, [K]."""
    _, owner, images = patients.unique(return_inverse=True, return_counts=True)
    held = torch.zeros(len(images), len(share), dtype=torch.float64)  # images of each patient in each bin
    held.index_put_((owner, member), torch.ones(len(member), dtype=torch.float64), accumulate=True)
    between = (held - images[:, None] * share).square().sum(dim=0)
    independent = len(member) * share * (1 - share)
    return torch.where(independent > 0, between / independent.clamp(min=1e-300), 1.0).clamp(min=1.0)


def ndb(
    real: Features, synthetic: Features, real_patients: Labels | None = None, seed: int = 0
) -> tuple[dict[str, Measured], Bins]:
    """The share of statistically different bins, and the bins.

    Args:
        real: feature vectors (or flattened small images) [N, D].
        synthetic: [M, D].
        real_patients: patient number [N]; None makes each image its own.
        seed: of the bins and halves.

    Returns:
        ``ndb`` with the exact interval of so many of K bins, taken as independent; ``floor.ndb`` (bins of one real
        half against another); ``excess.ndb``, the share that as many synthetic images have in the bins of a real half
        minus that of the other half, with a normal interval from the halves; and the bins.

    Raises:
        TooFewImagesError: fewer than :data:`FEWEST` images on a side, or too few patients for halves.
        MedaugError: features or patients that do not fit.
    """
    x, y = as_pair(real, synthetic)
    if min(len(x), len(y)) < FEWEST:
        raise TooFewImagesError(
            f"ndb: {len(x)} real and {len(y)} synthetic images, expected at least {FEWEST} each; give more images"
        )
    patients = as_numbers(real_patients, len(x), "patients")
    generator = torch.Generator().manual_seed(seed)
    bins = min(MOST_BINS, min(len(x), len(y)) // IMAGES_IN_A_BIN)
    found = compare(x, y, patients, bins, generator)
    differ = int(found.different.sum())
    note = f"{differ} of {bins} bins differ at 5 %"
    measured = {"ndb": Measured(differ / bins, *clopper_pearson(differ, bins), len(x), len(y), note)}
    half = max(bins // 2, 2)
    of_real: list[float] = []
    of_synthetic: list[float] = []
    for split in range(SPLITS):
        first, second = real_halves(patients, generator, FEWEST // 4)
        size = min(len(second), len(y))
        others, drawn = (points[torch.randperm(len(points), generator=generator)[:size]] for points in (x[second], y))
        for points, shares in ((others, of_real), (drawn, of_synthetic)):
            # the same bins for both: those of the first half
            at = torch.Generator().manual_seed(seed + split)
            shares.append(float(compare(x[first], points, patients[first], half, at).different.double().mean()))
    halved = f"{SPLITS} half splits by patient; {half} bins"
    size = min(len(x) // 2, len(y))
    measured["floor.ndb"] = Measured(
        sum(of_real) / SPLITS,
        min(of_real),
        max(of_real),
        size,
        None,
        f"real against real, mean and range: {halved}",
    )
    above = torch.tensor(of_synthetic, dtype=torch.float64) - torch.tensor(of_real, dtype=torch.float64)
    value, error = float(above.mean()), float(above.std())
    measured["excess.ndb"] = Measured(
        value,
        value - Z95 * error,
        value + Z95 * error,
        size,
        size,
        f"synthetic minus other real scans in a real half's bins, both at this n: {halved}",
    )
    return measured, found


def picture(real: Images, synthetic: Images, found: Bins, count: int = 6, columns: int = 8) -> Picture:
    """The bins that lack synthetic images most: a row of real images each, and below it the synthetic ones in it."""
    x, y = as_image_pair(real, synthetic)
    rows: list[list[torch.Tensor | None]] = []
    for index in found.z.argsort(descending=True)[:count]:
        for images, member in ((x, found.real_bin), (y, found.synthetic_bin)):
            own = list(images[member == index][:columns])
            rows.append([*own, *[None] * (columns - len(own))])
    return mosaic(rows)
