"""Probes of z and w on generators whose answers are known: path length, separability, edits."""

import copy
import math

import numpy as np
import pytest
import torch

from medgan.directions import plane
from medgan.metrics import attributes, edits, path_length, separability
from medgan.metrics.drawing import classes_in_turn, points
from medgan.metrics.intervals import percentiles, resamples
from medgan.metrics.measured import TooFewImagesError
from medgan.sample import held, slerp
from medgan.seeds import seeded
from pipeline.phantom import draw_patient
from pipeline.records import MedaugError
from tests.unit.latent_toys import LATENT, Nodules, disc, linear, swirl, toy
from tests.unit.test_medgan_explore import generator

ATTRIBUTES = {
    name: attributes.ATTRIBUTES[name] for name in ("centre_x", "centre_y", "area", "intensity")
}  # what the disc's four factors are


def flat(images):
    return images.flatten(1)


def orthonormal(scale=0.05, latent=LATENT):
    rng = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(1024, latent, generator=rng))[0] * scale


# -- path length -------------------------------------------------------------------------------------------------------


def ends(gan, pairs, space):
    labels = classes_in_turn(gan, pairs)
    return [points(gan, labels, 0, space, start=begin).double() for begin in (0, pairs)]


def test_speed_of_a_linear_map_in_w_is_its_length():
    """G(w) = Aw with identity features: |A(b − a)|² wherever on the path."""
    matrix = torch.randn(1024, LATENT, generator=torch.Generator().manual_seed(1)) * 0.01
    gan = toy(linear(matrix))
    a, b = ends(gan, 120, "w")
    expected = ((b - a) @ matrix.double().T).square().sum(dim=1)
    for sampling in ("full", "end"):
        speeds = path_length.squared_speeds(gan, flat, "w", sampling, 120, unit=False)
        torch.testing.assert_close(speeds, expected, rtol=0.02, atol=1e-5)


def test_speed_of_an_isometry_in_z_is_that_of_the_great_circle():
    """|p'|² = (change of length)² + (length × angle)², for paths that turn and stretch."""
    gan = toy(linear(orthonormal()))
    a, b = ends(gan, 120, "z")
    angle = torch.acos(torch.cosine_similarity(a, b, dim=1))
    expected = 0.05**2 * ((b.norm(dim=1) - a.norm(dim=1)).square() + (a.norm(dim=1) * angle).square())
    speeds = path_length.squared_speeds(gan, flat, "z", "end", 120, unit=False)
    torch.testing.assert_close(speeds, expected, rtol=0.02, atol=1e-6)


def test_features_of_unit_length_do_not_know_their_scale():
    gan = toy(disc)
    one, thousand = (
        path_length.squared_speeds(gan, lambda images, by=by: by * flat(images), "w", pairs=100) for by in (1.0, 1e3)
    )
    torch.testing.assert_close(one, thousand, rtol=1e-2, atol=1e-4)


def test_clipping_and_interval_of_path_length():
    """Of 0 … 199 with an outlier, ranks 1 to 198 are kept: the mean of 1 … 198."""
    speeds = torch.arange(200.0, dtype=torch.float64)
    speeds[199] = 1e9
    found = path_length.path_length(speeds[torch.randperm(200, generator=torch.Generator().manual_seed(0))])
    assert found.value == pytest.approx(sum(range(1, 199)) / 198)
    assert found.low == pytest.approx(99.5 - 1.96 * 57.7 / math.sqrt(200), abs=1.5)
    assert found.low < found.value < found.high
    assert found.n_synthetic == 400
    assert "200 pairs at the paths' beginnings; features of x stand in for LPIPS" in (
        path_length.path_length(speeds, extractor="x", sampling="end").note
    )
    with pytest.raises(TooFewImagesError, match="99 pairs"):
        path_length.path_length(speeds[:99])


def test_histograms_of_two_spaces_have_the_same_bins():
    """Ratios of 10 between neighbouring edges: 1 and 3 fall into the first, 500 into the last."""
    slow, fast = torch.tensor([1.0, 3.0, 50.0]).double(), torch.tensor([500.0, 1000.0]).double()
    edges, counts = path_length.histograms({"w": slow, "z": fast}, 3)
    torch.testing.assert_close(torch.tensor(edges), torch.tensor([1.0, 10.0, 100.0, 1000.0]))
    assert counts == {"w": [2, 1, 0], "z": [0, 0, 2]}
    edges, counts = path_length.histograms({"z": torch.zeros(5)}, 3)  # nothing moves
    assert (counts["z"], min(edges) > 0) == ([5, 0, 0], True)
    edges, counts = path_length.histograms({"z": torch.full((5,), 7.0)}, 3)
    assert (counts["z"], edges[-1]) == ([0, 0, 5], pytest.approx(7.0))
    one = torch.arange(1.0, 201.0)
    assert sum(path_length.histograms({"z": one})[1]["z"]) == 198  # as the mean: without 1 % on either side


def test_a_crooked_path_is_longer_than_a_straight_one():
    speeds = [path_length.squared_speeds(toy(disc, swirl), flat, space, pairs=200) for space in ("z", "w")]
    in_z, in_w = (path_length.path_length(one) for one in speeds)
    assert in_z.low > 1.5 * in_w.high


def test_rounding_is_not_taken_for_speed():
    coarse = {
        "8 bits": lambda images: flat(images).mul(127).round(),
        "bfloat16": lambda images: flat(images).bfloat16().float(),
    }
    for extractor in coarse.values():
        with pytest.raises(MedaugError, match="rounding is what is measured"):
            path_length.squared_speeds(toy(disc), extractor, "w", pairs=40)
    collapsed = path_length.squared_speeds(toy(lambda factors, noise: 0 * disc(factors)), flat, "w", pairs=100)
    assert path_length.path_length(collapsed).value == 0.0


@pytest.mark.thorough
@pytest.mark.parametrize("preset", ["stylegan2", "stylegan", "dcgan", "pggan"])
def test_float32_is_enough_for_epsilon(preset):
    """The same paths through the same weights in float64."""
    gan = generator(preset)
    space = "w" if gan.has_w else "z"
    found = path_length.squared_speeds(gan, flat, space, "end", 100, unit=False)
    precise = copy.deepcopy(gan.network).double()
    labels = classes_in_turn(gan, 100)
    a, b = ends(gan, 100, space)
    noise = [layer.double().expand(100, -1, -1, -1) for layer in gan.draw_latents([seeded(0, "noise")])[1]]
    images = []
    for t in (torch.zeros(100, 1).double(), torch.full((100, 1), 1e-4).double()):
        at = slerp(a, b, t) if space == "z" else torch.lerp(a, b, t)
        if space == "w":
            drawn = precise.synthesis(precise.truncate(at, labels, gan.stage, 1.0), gan.stage, held(noise))
        else:
            drawn = precise(at, labels, gan.stage, held(noise))
        images.append(drawn.clamp(-1, 1).flatten(1))
    expected = (images[1] - images[0]).square().sum(dim=1) / 1e-8
    assert path_length.path_length(found).value == pytest.approx(path_length.path_length(expected).value, rel=0.02)


# -- separability ------------------------------------------------------------------------------------------------------


def test_plane_and_its_offset():
    rng = torch.Generator().manual_seed(0)
    at = torch.randn(4000, 3, generator=rng, dtype=torch.float64) + 5.0
    normal = torch.tensor([0.6, -0.8, 0.0], dtype=torch.float64)
    found, offset = plane(at, at @ normal > -0.5, decay=1e-4)
    torch.testing.assert_close(found, normal, atol=0.01, rtol=0)
    assert offset == pytest.approx(-0.5, abs=0.05)  # the decay of weights leaves it off by 0.04


def test_conditional_entropy_in_closed_form():
    assert float(separability.conditional_entropy(torch.tensor([[50, 0], [0, 50]]))) == 0.0
    assert float(separability.conditional_entropy(torch.tensor([[25, 25], [25, 25]]))) == pytest.approx(math.log(2))
    table = torch.tensor([[30, 10], [20, 40]])  # p(x) = .4, .6; H = .4 h(1/4) + .6 h(1/3)
    h = [-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (1 / 4, 1 / 3)]
    assert float(separability.conditional_entropy(table)) == pytest.approx(0.4 * h[0] + 0.6 * h[1])


def judged(at, scores, labels=None):
    labels = torch.zeros(len(at), dtype=torch.int64) if labels is None else labels
    return separability.separability({n: separability.separate(at, s, labels) for n, s in scores.items()}, len(at))


def test_separability_of_what_is_linear_and_of_what_is_chance():
    rng = torch.Generator().manual_seed(0)
    at, other = (torch.randn(2000, 8, generator=rng) for _ in range(2))
    linearly = {"a": at[:, 0].double(), "b": (at[:, 1] - at[:, 2]).double()}
    assert judged(at, linearly).value == pytest.approx(1.0, abs=0.03)
    chance = {"a": other[:, 0].double(), "b": other[:, 1].double(), "c": other[:, 2].double()}
    found = judged(at, chance)
    assert found.value == pytest.approx(8.0, rel=0.03)
    assert found.low < found.value < found.high
    even = {"a": at[:, 0].square().double()}  # depends on the point, but no plane shows it
    assert judged(at, even).value == pytest.approx(2.0, rel=0.03)


def test_many_dimensions_are_not_separable_for_that():
    rng = torch.Generator().manual_seed(1)
    at, scores = torch.randn(400, 50, generator=rng), torch.randn(400, generator=rng).double()
    assert judged(at, {"chance": scores}).value > 1.8


def test_what_the_class_alone_explains_does_not_count():
    rng = torch.Generator().manual_seed(2)
    labels = torch.arange(1000) % 2
    at = torch.randn(1000, 4, generator=rng) + 6 * labels[:, None]
    scores = torch.randn(1000, generator=rng).double() + 9 * labels
    assert judged(at, {"of the class": scores}, labels).value == pytest.approx(2.0, rel=0.05)


def test_separability_refuses_what_would_mislead():
    at, labels = torch.randn(199, 4), torch.zeros(199, dtype=torch.int64)
    with pytest.raises(TooFewImagesError, match="199 images, expected at least 200"):
        separability.separate(at, torch.randn(199).double(), labels)
    with pytest.raises(MedaugError, match="expected images that vary"):
        separability.separate(torch.randn(300, 4), torch.zeros(300).double(), torch.zeros(300, dtype=torch.int64))


def test_too_few_points_for_the_width_are_refused():
    """With 250 kept points in 128 dimensions a space as straight as can be passes for an entangled one."""
    at, labels = torch.randn(500, 128).double(), torch.zeros(500, dtype=torch.int64)
    with pytest.raises(TooFewImagesError, match="500 images for 128 dimensions, expected 1024 or more"):
        separability.separate(at, at[:, 0], labels)


def test_swirled_z_is_less_separable_than_w():
    gan = toy(disc, swirl)
    labels = classes_in_turn(gan, 600)
    scores = attributes.scores(gan, labels, ATTRIBUTES)
    in_z, in_w = (judged(points(gan, labels, 0, space), scores, labels) for space in ("z", "w"))
    assert in_w.value < 1.5
    assert in_z.low > 4.0


def test_side_of_a_phantoms_effusion():
    """Ground truth as the point: the fluid's signed depth separates what is seen of it, in the backs of both lungs."""
    rng = np.random.default_rng(0)
    images, truth = [], []
    for patient in range(70):
        for cut in draw_patient("effusion", 3, 32, False, np.random.default_rng([0, patient])):
            images.append(np.clip((cut.hu + 1000) / 700 - 1, -1, 1))
            truth.append((1 if cut.finding.side == "left" else -1) * cut.finding.depth_mm)
    back = torch.tensor(np.stack(images))[:, 16:24]
    score = back[:, :, 20:27].mean(dim=(1, 2)) - back[:, :, 5:12].mean(dim=(1, 2))
    known = torch.tensor(np.stack([truth, rng.normal(size=len(truth))], axis=1))
    unknown = torch.tensor(rng.normal(size=known.shape))
    assert judged(known, {"side": score}).value < 1.35
    assert judged(unknown, {"side": score}).value > 1.8


def nodules(space, mapping=lambda z: z, mix=None):
    """Separability, purity and control of a generator of nodules, scored by the phantom's ground truth."""
    render = Nodules(mix)
    gan, known = toy(render, mapping), render.attributes()
    labels = classes_in_turn(gan, 400)
    truth = attributes.scores(gan, labels, known)
    moved = edits.edit(gan, truth, labels, space, known, 60)
    return judged(points(gan, labels, 0, space), truth, labels), edits.purity(moved), edits.control(moved)


@pytest.mark.parametrize("turned", [False, True])
def test_independent_factors_of_a_nodule_are_separable_and_controlled(turned):
    """Side, place and size by the ground truth: 1 is perfect, whichever way the factors lie in the space."""
    turn = torch.linalg.qr(torch.randn(LATENT, LATENT, generator=torch.Generator().manual_seed(2)))[0]
    apart, pure, control = nodules("w", mix=turn if turned else None)
    assert apart.value == pytest.approx(1.1, abs=0.1)  # each plane is fitted to 160 points
    assert pure.value == pytest.approx(1.0, abs=0.05)
    assert control.value == pytest.approx(1.0, abs=0.05)


def test_a_nodule_whose_size_goes_with_its_place_is_impure_and_yet_controlled():
    """A correlation of 0.8 between two of three: purity is (1 + 2 / 1.4) / 3, all that linear control can reach."""
    mix = torch.eye(LATENT)
    mix[1, 2], mix[2, 2] = 0.8, 0.6
    apart, pure, control = nodules("w", mix=mix)
    assert apart.value == pytest.approx(1.1, abs=0.1)
    assert pure.value == pytest.approx((1 + 2 / 1.4) / 3, abs=0.03)
    assert control.value == pytest.approx(1.0, abs=0.05)


def test_entangled_factors_of_a_nodule_lose_both_the_more_the_more_they_are_entangled():
    """The same images, the factors being a crooked function of z: separability goes to 8 and purity to 1/2, chance."""
    straight, bent, crooked = (nodules("z", lambda z, by=by: swirl(z, by)) for by in (0.0, 0.2, 1.0))
    assert straight[0].high < bent[0].low < bent[0].high < crooked[0].low
    assert straight[1].low > bent[1].high > bent[1].low > crooked[1].high
    assert straight[2].low > bent[2].high > bent[2].low > crooked[2].high
    assert crooked[0].value == pytest.approx(8.0, abs=0.5)
    assert crooked[1].value == pytest.approx(0.5, abs=0.06)


# -- attributes --------------------------------------------------------------------------------------------------------


def test_attributes_of_a_known_disc():
    factors = torch.tensor([[0.0, 0, 0, 0], [2.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 1.0]])
    found = dict(zip(attributes.ATTRIBUTES, attributes.measure(disc(factors), attributes.ATTRIBUTES).T, strict=True))
    torch.testing.assert_close(found["centre_x"], torch.tensor([0, 4 / 16, 0, 0, 0]).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(found["centre_y"], torch.tensor([0, 0, -2 / 16, 0, 0]).double(), atol=1e-3, rtol=0)
    assert found["area"][0].item() == pytest.approx(math.pi * 7**2 / 1024, rel=0.1)
    assert found["area"][3].item() == pytest.approx(math.pi * 8.6**2 / 1024, rel=0.1)
    assert (found["intensity"][4] - found["intensity"][0]).item() == pytest.approx(
        0.15, abs=0.03
    )  # the dim rim counts, too
    for name in ("area", "centre_x"):
        assert abs(found[name][4] - found[name][0]).item() < 0.005
    asymmetry = attributes.asymmetry(disc(factors))
    assert asymmetry[0].item() == pytest.approx(0.0, abs=1e-6)
    assert asymmetry[1].item() > 0.03
    assert "asymmetry" not in attributes.ATTRIBUTES  # |dx| has no direction of its own
    halves = torch.full((1, 1, 8, 8), 0.5)
    halves[..., :4] = -0.1
    assert attributes.intensity(halves).item() == pytest.approx(0.2, abs=0.01)
    assert attributes.contrast(halves).item() == pytest.approx(0.3, abs=0.01)
    nothing = attributes.measure(torch.full((1, 1, 8, 8), -1.0), attributes.ATTRIBUTES)
    torch.testing.assert_close(nothing, torch.tensor([[0.0, -1, 0, 0, 0]]).double(), atol=0.01, rtol=0)


# -- edits -------------------------------------------------------------------------------------------------------------


def edited(gan, space, count=400):
    labels = classes_in_turn(gan, count)
    return edits.edit(gan, attributes.scores(gan, labels, ATTRIBUTES), labels, space, ATTRIBUTES, 60)


def test_independent_factors_are_pure_and_swirled_ones_are_not():
    gan = toy(disc, swirl)
    in_w, in_z = (edits.purity(edited(gan, space)) for space in ("w", "z"))
    assert in_w.low > 0.85
    assert in_z.high < 0.7
    assert in_z.low < in_z.value < in_z.high


def test_purity_of_linear_factors_is_what_their_correlation_says():
    """Scores bᵢ·w, directions bᵢ/|bᵢ|: attribute j changes by the cosine of bᵢ and bⱼ where i changes by 1."""
    basis = torch.tensor([[1.0, 0, 0, 0], [0.6, 0.8, 0, 0], [0.0, 0.6, 0.8, 0]])
    matrix = orthonormal(0.05)
    gan = toy(linear(matrix))
    back = torch.linalg.pinv(matrix).T  # images -> w
    measures = {name: lambda images, row=row: flat(images) @ back @ row for name, row in zip("abc", basis, strict=True)}
    labels = classes_in_turn(gan, 4000)
    found = edits.edit(gan, attributes.scores(gan, labels, measures), labels, "w", measures, 60)
    cosines = (basis @ basis.T).abs()
    expected = (1 / (1 + (cosines.sum(dim=1) - 1) / 2)).mean()
    assert edits.purity(found).value == pytest.approx(expected.item(), abs=0.03)
    assert found.correlation == pytest.approx(float(cosines.sum() - 3) / 6, abs=0.03)
    assert found.ceiling == pytest.approx(expected.item(), abs=0.03)
    control = edits.control(found)  # linear control is perfect, though its purity is not
    assert control.value == pytest.approx(1.0, abs=0.03)
    assert control.low <= control.value <= control.high
    table = torch.tensor(edits.effects(found))
    torch.testing.assert_close(table, 2 * (basis @ basis.T), atol=0.15, rtol=0)  # ±1 standard deviation


def test_edits_refuse_what_would_mislead_and_show_what_they_do():
    gan = toy(disc)
    labels = classes_in_turn(gan, 200)
    scores = attributes.scores(gan, labels, ATTRIBUTES)
    with pytest.raises(TooFewImagesError, match="199 images"):
        edits.edit(gan, scores, labels[:199], "w", ATTRIBUTES)
    found = edits.edit(gan, scores, labels, "w", ATTRIBUTES, 19)
    with pytest.raises(TooFewImagesError, match="19 images moved"):
        edits.purity(found)
    with pytest.raises(MedaugError, match="expected at least two"):
        edits.edit(gan, scores, labels, "w", {"area": attributes.area})
    sheet = edits.picture(gan, found, 0, "w")
    assert (sheet.shape, sheet.dtype) == ((4 * 32, 5 * 32), np.uint8)
    ages = torch.tensor(sheet[:32].astype(float)).unflatten(1, (5, 32))  # the first row moves the disc rightwards
    centres = (ages.sum(dim=0) * torch.arange(32.0)).sum(dim=1) / ages.sum(dim=(0, 2))
    assert bool((centres.diff() > 0.5).all())


@pytest.mark.thorough
@pytest.mark.parametrize("preset", ["dcgan", "stylegan2"])
def test_probes_of_every_kind_of_generator(preset):
    """Untrained networks: figures within their bounds, the same from the same seed, and no w where there is none."""
    gan = generator(preset)
    labels = classes_in_turn(gan, 240)
    scores = attributes.scores(gan, labels)
    for space in ("z", "w") if gan.has_w else ("z",):
        at = points(gan, labels, 0, space)
        found = judged(at, scores, labels)
        assert 1.0 <= found.value <= 2.0 ** len(scores) + 1e-9
        pure = edits.purity(edits.edit(gan, scores, labels, space, edited=20))
        assert 0.0 < pure.value < 1.0
        again = path_length.squared_speeds(gan, flat, space, pairs=20, seed=3)
        torch.testing.assert_close(again, path_length.squared_speeds(gan, flat, space, pairs=20, seed=3))
    if not gan.has_w:
        with pytest.raises(MedaugError, match="has no w"):
            path_length.squared_speeds(gan, flat, "w", pairs=4)


# -- intervals ---------------------------------------------------------------------------------------------------------


def test_interval_of_a_mean():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = percentiles(values[resamples(400, 0)].mean(dim=1))
    reach = 1.96 * values.std().item() / 20
    assert (low, high) == (
        pytest.approx(values.mean().item() - reach, abs=0.02),
        pytest.approx(values.mean().item() + reach, abs=0.02),
    )
