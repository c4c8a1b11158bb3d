"""What generators offer beside samples: interpolation, walks, mixing, truncation, directions, projection."""

import math

import pytest
import torch

from medgan import directions, explore
from medgan.project import project, pyramid_distance
from medgan.sample import LoadedGenerator
from pipeline.records import MedaugError
from tests.unit.medgan_toys import PRESETS, RANGE, built, spec, tiny

pytestmark = pytest.mark.thorough

STYLES = ["stylegan", "stylegan2"]


def generator(preset, height=16, width=24, channels=1, stage=None, **over):
    config = tiny(preset, **over)
    image_spec = spec(height, width, channels)
    architecture = built(config, image_spec).requires_grad_(False)
    rng = torch.Generator().manual_seed(5)
    full = architecture.stage_at(10**9)
    for _ in range(60):  # statistics of batch norm, without which every layer shrinks its input
        z = torch.randn(16, 8, generator=rng)
        architecture.generator(z, torch.arange(16) % 2, full, None)
    architecture.eval()
    for name, parameter in architecture.generator.named_parameters():
        if name.endswith("noise_scale"):  # starts at 0, which would hide the noise
            parameter.fill_(0.1)
    if preset in STYLES:  # as training would have it
        for label in range(2):
            w = architecture.generator.mapping(torch.randn(500, 8, generator=rng), torch.full((500,), label))
            architecture.generator.track_average(w, torch.full((500,), label))
    stage = architecture.stage_at(10**9) if stage is None else stage
    return LoadedGenerator(config, image_spec, RANGE, architecture.generator, stage, torch.device("cpu"))


@pytest.mark.parametrize("preset", PRESETS)
def test_points_are_those_of_the_samples(preset):
    gan = generator(preset)
    labels = [0, 1, 1]
    at = explore.points(gan, labels, seed=4)
    assert at.shape[0] == 3
    assert torch.equal(explore.points(gan, [1, 1], seed=4, start=1), at[1:]) or torch.allclose(
        explore.points(gan, [1, 1], seed=4, start=1), at[1:], rtol=1e-4, atol=1e-5
    )
    if not gan.network.noise_layers(gan.stage):  # no noise: the very images
        drawn = explore.images(gan, at, labels)
        torch.testing.assert_close(drawn, gan.sample(labels, seed=4), rtol=1e-4, atol=1e-4)
    drawn = explore.images(gan, explore.points(gan, labels, 4, "z"), labels, space="z")
    torch.testing.assert_close(drawn, explore.images(gan, at, labels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_same_points_same_noise_same_images_whatever_stands_beside(preset, monkeypatch):
    gan = generator(preset)
    labels = [1, 0, 1, 1, 0]
    at = explore.points(gan, labels)
    together = explore.images(gan, at, labels)
    monkeypatch.setattr("medgan.sample.BATCH_PIXELS", 2 * 16 * 24)
    torch.testing.assert_close(explore.images(gan, at, labels), together, rtol=1e-4, atol=1e-4)
    twice = explore.images(gan, at[:1].repeat(2, *[1] * (at.dim() - 1)), [1, 1])
    assert torch.equal(twice[0], twice[1])


@pytest.mark.parametrize("preset", ["dcgan", "stylegan2"])
def test_interpolation_goes_through_both_ends(preset):
    gan = generator(preset)
    a, b = explore.points(gan, [0, 0])
    way = explore.interpolate(gan, a, b, 5)
    torch.testing.assert_close(way[0], a, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(way[-1], b, rtol=1e-4, atol=1e-5)
    if gan.has_w:
        torch.testing.assert_close(way[2], (a + b) / 2)
    else:  # on the great circle: as long as its ends, at half the angle
        length = (a.norm() + b.norm()) / 2
        assert way[2].norm().item() == pytest.approx(length.item(), rel=1e-4)
        cosine = torch.cosine_similarity(way[2], a, dim=0), torch.cosine_similarity(way[2], b, dim=0)
        assert cosine[0].item() == pytest.approx(cosine[1].item(), rel=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_walk_closes(preset):
    gan = generator(preset)
    frames = explore.walk(gan, 1, 24, stops=3, seed=2)
    assert frames.shape == (24, 1, 16, 24)
    torch.testing.assert_close(frames[0], explore.walk(gan, 1, 24, stops=3, seed=2)[0])
    steps = (frames - frames.roll(1, 0)).abs().mean(dim=(1, 2, 3))  # the last one leads to the first
    apart = (frames[0] - frames[8]).abs().mean()
    assert 0 < float(steps.max()) < 0.8 * float(apart)
    stops = explore.images(gan, explore.points(gan, [1] * 3, 2), [1] * 3, 2)
    torch.testing.assert_close(frames[::8], stops, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", STYLES)
def test_mixing_grid(preset):
    gan = generator(preset)
    count = gan.network.style_layers(gan.stage)
    grid = explore.mixing_grid(gan, [0, 1], [2, 3, 4], seed=1)
    assert grid.shape == (3, 4, 1, 16, 24)
    assert bool((grid[0, 0] == -1).all())
    sources = explore.images(gan, explore.points(gan, [0] * 5, 1), [0] * 5, 1)
    torch.testing.assert_close(grid[1:, 0], sources[:2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grid[0, 1:], sources[2:], rtol=1e-4, atol=1e-4)
    everything = explore.mixing_grid(gan, [0, 1], [2, 3, 4], crossing=(0, count), seed=1)
    for row in (1, 2):  # all layers from the second: its image, whatever the first was
        torch.testing.assert_close(everything[row, 1:], grid[0, 1:], rtol=1e-4, atol=1e-4)
    w = explore.points(gan, [0] * 5, 1)
    ws = w[1].repeat(count, 1)
    ws[count // 2 :] = w[3]
    mixed = explore.images(gan, ws[None], [0], 1)[0]
    torch.testing.assert_close(grid[2, 2], mixed, rtol=1e-4, atol=1e-4)
    assert float((grid[2, 2] - grid[2, 0]).abs().max()) > 1e-4
    with pytest.raises(MedaugError, match="expected layers within"):
        explore.mixing_grid(gan, [0], [1], crossing=(3, 99))


@pytest.mark.parametrize("preset", STYLES)
def test_truncation_sweep(preset):
    gan = generator(preset)
    labels = [0, 0, 1, 1]
    sweep = explore.truncation_sweep(gan, labels, (1.0, 0.5, 0.0))
    assert sweep.shape == (3, 4, 1, 16, 24)
    at = explore.points(gan, labels)
    torch.testing.assert_close(sweep[0], explore.images(gan, at, labels), rtol=1e-4, atol=1e-4)
    for pair in (sweep[2, :2], sweep[2, 2:]):  # at 0 one image for each class
        torch.testing.assert_close(pair[0], pair[1], rtol=1e-3, atol=1e-3)
    assert float((sweep[2, 0] - sweep[2, 2]).abs().max()) > 1e-3
    mean = gan.network.w_average[torch.tensor(labels)]
    half = explore.images(gan, mean + 0.5 * (at - mean), labels)
    torch.testing.assert_close(sweep[1], half, rtol=1e-3, atol=1e-3)
    untouched = explore.truncation_sweep(gan, labels, (0.0,), layers=0)
    torch.testing.assert_close(untouched[0], sweep[0], rtol=1e-4, atol=1e-4)
    coarse = explore.truncation_sweep(gan, labels, (0.0,), layers=2)
    assert float((coarse[0] - sweep[0]).abs().max()) > 1e-4
    assert float((coarse[0] - sweep[2]).abs().max()) > 1e-4


def test_what_needs_w_says_so():
    gan = generator("dcgan")
    for ask in (
        lambda: explore.mixing_grid(gan, [0], [1]),
        lambda: explore.truncation_sweep(gan, [0]),
        lambda: explore.points(gan, [0], space="w"),
        lambda: explore.images(gan, torch.zeros(1, 8), [0], truncation=0.5),
        lambda: project(gan, torch.zeros(1, 1, 16, 24), [0], each_layer=True),
    ):
        with pytest.raises(MedaugError, match="dcgan has no w"):
            ask()


# -- directions --------------------------------------------------------------------------------------------------------


def test_direction_is_the_normal_of_a_known_plane():
    rng = torch.Generator().manual_seed(0)
    at = torch.randn(4000, 6, generator=rng) * torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0, 1.0]) + 1.0
    normal = torch.tensor([1.0, -0.5, 2.0, 0.0, 0.1, -1.0])
    normal = normal / normal.norm()
    found = directions.direction(at, at @ normal > 0.7)
    assert found.norm().item() == pytest.approx(1.0, rel=1e-5)
    assert torch.dot(found, normal).item() > 0.98
    opposite = directions.direction(at, at @ normal <= 0.7)
    torch.testing.assert_close(opposite, -found, rtol=1e-3, atol=1e-3)


def test_direction_is_the_minimum_of_its_loss():
    """Logistic loss and decay, written out and differentiated by autograd: nothing is left to descend."""
    rng = torch.Generator().manual_seed(1)
    at = torch.randn(300, 4, generator=rng, dtype=torch.float64)
    shows = at[:, 0] + torch.randn(300, generator=rng, dtype=torch.float64) > 0
    found = directions.direction(at, shows)
    x = (at - at.mean(0)) / at.std(0)
    weight = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14)

    def loss():
        optimiser.zero_grad()
        logit = x @ weight[:4] + weight[4]
        sign = torch.where(shows, 1.0, -1.0)
        value = torch.nn.functional.softplus(-sign * logit).mean() + 0.01 / 2 * weight[:4].square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    normal = weight.detach()[:4] / at.std(0)
    torch.testing.assert_close(found, normal / normal.norm(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", ["dcgan", "stylegan2"])
def test_edits_along_a_direction_bring_the_attribute(preset):
    """The attribute is brightness, its labels are whether an image is brighter than the median."""
    gan = generator(preset)
    labels = [0] * 400
    at = explore.points(gan, labels)
    level = explore.images(gan, at, labels).mean(dim=(1, 2, 3))
    along = directions.direction(at, level > level.median())
    moved = directions.edit(gan, at[:100], labels[:100], along, (-2.0, 0.0, 2.0))
    darker, same, brighter = moved.mean(dim=(2, 3, 4))
    torch.testing.assert_close(same, level[:100], rtol=1e-3, atol=1e-4)
    for more, less in ((brighter, same), (same, darker)):  # random weights: on the whole, not for every image
        change = more - less
        assert change.mean().item() > 3 * change.std().item() / 10
        assert (change > 0).float().mean().item() > 0.6


def test_direction_between_classes_and_what_is_no_attribute():
    gan = generator("stylegan2")
    labels = [0] * 100 + [1] * 100
    at = explore.points(gan, labels)
    along = directions.direction(at, [label == 1 for label in labels])
    side = at @ along
    assert float(side[100:].mean()) > float(side[:100].mean())
    with pytest.raises(MedaugError, match="200 of 200 images have it"):
        directions.direction(at, [True] * 200)


@pytest.mark.parametrize("preset", PRESETS)
def test_arithmetic_of_latents(preset):
    gan = generator(preset)
    z = explore.points(gan, [0] * 9, space="z")
    image, point = directions.arithmetic(gan, 1, [(1.0, z[:3]), (-1.0, z[3:6]), (1.0, z[6:])])
    total = z[:3].mean(0) - z[3:6].mean(0) + z[6:].mean(0)
    torch.testing.assert_close(point[0], total * math.sqrt(8) / total.norm(), rtol=1e-4, atol=1e-5)
    assert image.shape == (1, 1, 16, 24)
    alone, _ = directions.arithmetic(gan, 0, [(1.0, z[:1])])
    own = explore.images(gan, z[:1] * math.sqrt(8) / z[:1].norm(), [0], space="z")
    torch.testing.assert_close(alone, own, rtol=1e-4, atol=1e-4)


def test_arithmetic_in_w_is_a_plain_sum():
    gan = generator("stylegan2")
    w = explore.points(gan, [0, 0, 0])
    image, point = directions.arithmetic(gan, 0, [(1.0, w[:1]), (-1.0, w[1:2]), (1.0, w[2:])], space="w")
    torch.testing.assert_close(point[0], w[0] - w[1] + w[2])
    torch.testing.assert_close(image, explore.images(gan, point, [0]), rtol=1e-4, atol=1e-4)


# -- projection --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "each_layer"), [("stylegan2", False), ("stylegan2", True), ("stylegan", True), ("dcgan", False)]
)
def test_projection_finds_what_the_generator_drew(preset, each_layer):
    gan = generator(preset)
    zeros = [torch.zeros(2, 1, h, w) for h, w in gan.network.noise_layers(gan.stage)]
    labels = torch.tensor([0, 1])
    with torch.no_grad():
        targets = gan.render_z(explore.points(gan, labels, 7, "z"), labels, zeros)
    found = project(gan, targets, labels, steps=150, each_layer=each_layer)
    assert found.distances.shape == (151, 2)
    last, point = found.distances[-1], found.point
    with torch.no_grad():
        others = [layer[:1].expand(64, -1, -1, -1) for layer in zeros]
        for k in range(2):  # closer than the best of 64 others of its class
            same = labels[k : k + 1].expand(64)
            drawn = gan.render_z(explore.points(gan, same, 8, "z"), same, others)
            assert float(last[k]) < 0.8 * float(pyramid_distance(drawn, targets[k : k + 1]).min())
    if preset == "dcgan":
        torch.testing.assert_close(point.norm(dim=1), torch.full((2,), math.sqrt(8)))
        drawn = gan.render_z(point, labels, zeros)
    else:
        styles = point if each_layer else point[:, None].repeat(1, gan.network.style_layers(gan.stage), 1)
        drawn = gan.render(styles, zeros)
    torch.testing.assert_close(found.images, drawn.clamp(-1, 1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(pyramid_distance(drawn, targets), last, rtol=1e-3, atol=1e-5)
    first, again = (project(gan, targets, labels, steps=5, each_layer=each_layer) for _ in range(2))
    assert torch.equal(first.point, again.point)


def test_projection_of_one_does_not_depend_on_the_others_target():
    gan = generator("stylegan2")
    a, b = gan.sample([0, 0], seed=1), gan.sample([0, 0], seed=2)
    both = [torch.stack([a[0], a[1]]), torch.stack([a[0], b[1]])]
    points = [project(gan, targets, [0, 0], steps=20).point for targets in both]
    torch.testing.assert_close(points[0][0], points[1][0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(points[0][1], points[1][1], rtol=1e-3, atol=1e-4)


def test_projection_refuses_other_sizes_and_counts():
    gan = generator("stylegan2")
    with pytest.raises(MedaugError, match=r"expected \[N, 1, 16, 24\]; resize"):
        project(gan, torch.zeros(1, 1, 16, 16), [0])
    with pytest.raises(MedaugError, match="2 targets with 1 labels"):
        project(gan, torch.zeros(2, 1, 16, 24), [0])


def test_pyramid_distance_by_hand():
    a, b = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    b[0, 0, 0, 0] = 1.0
    # 8x8: 1/64; 4x4: (1/4)²/16
    assert pyramid_distance(a, b).item() == pytest.approx((1 / 64 + 1 / 256) / 2)
    assert pyramid_distance(a, a).item() == 0.0


def test_a_sweep_takes_finite_truncations_alone():
    gan = generator("stylegan2")
    assert explore.truncation_sweep(gan, [0], (-1.0,)).isfinite().all()
    with pytest.raises(MedaugError, match="expected a finite number"):
        explore.truncation_sweep(gan, [0], (float("nan"),))
