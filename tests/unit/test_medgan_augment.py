"""Augmentation: each transform against numpy, the identity at p = 0, gradients, and the controller by hand."""

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from medgan import losses
from medgan.augment import Augment, Geometry, augment, diff_augment
from medgan.contract import Batch
from medgan.options import TRANSFORMS, Augmentation
from medgan.sizes import Stage
from medgan.train import Trainer
from tests.unit.medgan_toys import built, ignore, randomised, scans, spec, tiny

pytestmark = pytest.mark.thorough

ONE, ZERO = torch.ones(()), torch.zeros(())
GEOMETRY = ("flip", "rotate90", "translate", "scale", "rotate", "stretch", "shift")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=4, channels=1, height=8, width=8, dtype=torch.float32):
    return torch.randn(count, channels, height, width, generator=rng(9), dtype=dtype)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return scans(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(("height", "width", "channels"), [(8, 8, 1), (6, 10, 3)])
def test_nothing_happens_at_p_0(height, width, channels):
    x = images(16, channels, height, width)
    assert torch.equal(augment(x, TRANSFORMS, ZERO, rng()), x)
    assert torch.equal(Augment(Augmentation("adaptive", TRANSFORMS))(x, rng()), x)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_share_of_p_is_transformed_and_the_rest_is_left_alone_to_the_bit(name):
    x = images(2000)
    changed = (augment(x, (name,), torch.tensor(0.3), rng()) != x).flatten(1).any(dim=1).float().mean().item()
    # Draws that change nothing: a flip or a polarity of ½, a quarter of the quarter turns and of round(U(±1)) twice.
    expected = {"flip": 0.15, "luma_flip": 0.15, "rotate90": 0.225, "translate": 0.225}.get(name, 0.3)
    assert changed == pytest.approx(expected, abs=0.04)
    assert not torch.equal(augment(x, (name,), ONE, rng(1)), augment(x, (name,), ONE, rng(2)))
    assert torch.equal(augment(x, (name,), ONE, rng(1)), augment(x, (name,), ONE, rng(1)))


def test_flips_and_quarter_turns_are_those_of_numpy_and_nothing_else_comes_out():
    x = images(400)
    for name, outcomes in (
        ("flip", [lambda a: a, lambda a: a[..., ::-1]]),
        ("rotate90", [lambda a, k=k: np.rot90(a, k, axes=(-2, -1)) for k in range(4)]),
        ("luma_flip", [lambda a: a, lambda a: -a]),
    ):
        y = augment(x, (name,), ONE, rng())
        seen = np.zeros(len(outcomes))
        for before, after in zip(x.numpy(), y.numpy(), strict=True):
            match = [np.array_equal(after, outcome(before)) for outcome in outcomes]
            assert sum(match) == 1, name
            seen += match
        assert seen.min() > 400 / len(outcomes) * 0.6, name


def test_images_that_are_not_square_turn_by_halves():
    x = images(40, 1, 6, 10)
    y = augment(x, ("rotate90",), ONE, rng())
    turned = [torch.equal(b, a.flip((1, 2))) for a, b in zip(x, y, strict=True)]
    assert all(same or torch.equal(a, b) for same, a, b in zip(turned, x, y, strict=True))
    assert 0 < sum(turned) < 40


def test_whole_shifts_reflect_at_the_border():
    x = images(60, 1, 16, 24)
    y = augment(x, ("translate",), ONE, rng())
    found = set()
    for before, after in zip(x[:, 0].numpy(), y[:, 0].numpy(), strict=True):
        padded = np.pad(before, 4, mode="reflect")
        offsets = [
            (dy, dx)
            for dy in range(-2, 3)  # an eighth of 16, of 24
            for dx in range(-3, 4)
            if np.array_equal(padded[4 - dy : 20 - dy, 4 - dx : 28 - dx], after)
        ]
        assert len(offsets) == 1
        found |= set(offsets)
    assert len(found) > 15


def slow_warp(image, forward):
    """Bilinear sampling at forward⁻¹ of each pixel, one at a time; coordinates around the centre, reflected."""
    height, width = image.shape
    inverse = np.linalg.inv(forward)
    out = np.zeros_like(image)

    def reflected(place, size):
        while place < 0 or place > size - 1:
            place = -place if place < 0 else 2 * (size - 1) - place
        return place

    for i in range(height):
        for j in range(width):
            x, y, _ = inverse @ np.array([j - (width - 1) / 2, i - (height - 1) / 2, 1.0])
            column, row = reflected(x + (width - 1) / 2, width), reflected(y + (height - 1) / 2, height)
            c, r = min(int(column), width - 2), min(int(row), height - 2)
            fc, fr = column - c, row - r
            out[i, j] = (image[r, c] * (1 - fc) + image[r, c + 1] * fc) * (1 - fr) + (
                image[r + 1, c] * (1 - fc) + image[r + 1, c + 1] * fc
            ) * fr
    return out


def test_maps_are_composed_in_order_and_resampled_once():
    x = images(1, 2, 7, 10, torch.float64)
    geometry = Geometry(1, torch.device("cpu"))
    angle = torch.tensor([0.4])
    geometry.scale(torch.tensor([1.3]), torch.tensor([0.8]))
    geometry.rotate(angle.cos(), angle.sin())
    geometry.translate(torch.tensor([2.3]), torch.tensor([-1.6]))
    y = geometry.apply(x)[0].numpy()
    cosine, sine = math.cos(0.4), math.sin(0.4)
    forward = (
        np.array([[1, 0, 2.3], [0, 1, -1.6], [0, 0, 1]])
        @ np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        @ np.diag([1.3, 0.8, 1.0])
    )
    for channel in range(2):
        np.testing.assert_allclose(y[channel], slow_warp(x[0, channel].numpy(), forward), atol=1e-5)


def test_a_point_moves_where_it_should():
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 6] = 1.0  # two to the right of the centre
    for move, (row, column) in (
        (lambda g: g.scale(torch.tensor([1.5]), torch.tensor([1.0])), (4, 7)),
        (lambda g: g.rotate(torch.tensor([0.0]), torch.tensor([1.0])), (6, 4)),
        (lambda g: g.translate(torch.tensor([1.0]), torch.tensor([-3.0])), (1, 7)),
    ):
        geometry = Geometry(1, torch.device("cpu"))
        move(geometry)
        assert divmod(int(geometry.apply(x).argmax()), 9) == (row, column)


def test_distributions_of_the_geometry(monkeypatch):
    """The parameters drawn at p = 1: lognormal scales, uniform angles, normal shifts (appendix B)."""
    seen = {"scale": [], "rotate": [], "translate": []}
    for name, calls in seen.items():
        monkeypatch.setattr(Geometry, name, lambda self, a, b, calls=calls: calls.append((a, b)))
    augment(images(20_000, 1, 4, 8), ("scale", "rotate", "stretch", "shift"), ONE, rng())
    (sx, sy), (ax, ay) = seen["scale"]
    assert torch.equal(sx, sy)
    torch.testing.assert_close(ay, 1 / ax)
    for factor in (sx, ax):
        assert factor.log().std().item() == pytest.approx(0.2 * math.log(2), rel=0.03)
        assert factor.log().mean().item() == pytest.approx(0.0, abs=0.005)
    for cosine, sine in seen["rotate"]:
        angle = torch.atan2(sine, cosine)
        assert angle.std().item() == pytest.approx(2 * math.pi / math.sqrt(12), rel=0.03)
    [(tx, ty)] = seen["translate"]
    assert tx.std().item() == pytest.approx(0.125 * 8, rel=0.03)
    assert ty.std().item() == pytest.approx(0.125 * 4, rel=0.03)


def test_two_rotations_make_one_with_probability_p(monkeypatch):
    turned = []
    monkeypatch.setattr(Geometry, "rotate", lambda self, cosine, sine: turned.append(cosine != 1))
    augment(images(20_000, 1, 4, 4), ("rotate",), torch.tensor(0.36), rng())
    assert len(turned) == 2
    assert turned[0].float().mean().item() == pytest.approx(1 - math.sqrt(1 - 0.36), abs=0.01)
    assert (turned[0] | turned[1]).float().mean().item() == pytest.approx(0.36, abs=0.01)


def test_intensities():
    x = images(20_000, 3, 4, 4)
    brighter = augment(x, ("brightness",), ONE, rng()) - x
    assert (brighter - brighter[:, :1, :1, :1]).abs().max() < 1e-5  # one number an image
    assert brighter[:, 0, 0, 0].std().item() == pytest.approx(0.2, rel=0.03)
    factor = (augment(x, ("contrast",), ONE, rng()) / x)[:, 0, 0, 0]
    assert factor.log().std().item() == pytest.approx(0.5 * math.log(2), rel=0.03)
    flipped = augment(x, ("luma_flip",), ONE, rng())
    luma = flipped.mean(dim=1) / x.mean(dim=1)
    torch.testing.assert_close(luma.abs(), torch.ones_like(luma), rtol=0.05, atol=0.05)
    assert (luma[:, 0, 0] < 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(flipped - flipped.mean(1, True), x - x.mean(1, True), rtol=1e-4, atol=1e-5)
    sigma = (augment(x, ("noise",), ONE, rng()) - x).flatten(1).square().mean(dim=1)
    assert sigma.mean().sqrt().item() == pytest.approx(0.1, rel=0.05)  # E[σ²] of a half-normal is 0.1²


def test_cutout_is_a_rectangle_of_half_the_size():
    y = augment(torch.ones(500, 2, 16, 24), ("cutout",), ONE, rng())
    areas = []
    for image in y[:, 0].numpy():
        rows, columns = np.nonzero((image == 0).any(axis=1))[0], np.nonzero((image == 0).any(axis=0))[0]
        assert (image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 0).all()
        assert len(rows) <= 8
        assert len(columns) <= 12
        areas.append(len(rows) * len(columns))
    assert max(areas) == 8 * 12
    assert torch.equal(y[:, 0], y[:, 1])


def test_diffaugment_moves_with_zeros_around_and_cuts_every_image():
    x = images(60, 1, 16, 24).abs() + 1
    y = diff_augment(x, ("translate",), rng())
    found = set()
    for before, after in zip(x[:, 0].numpy(), y[:, 0].numpy(), strict=True):
        padded = np.pad(before, 4)
        offsets = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-3, 4)
            if np.array_equal(padded[4 - dy : 20 - dy, 4 - dx : 28 - dx], after)
        ]
        assert len(offsets) == 1
        found |= set(offsets)
    assert {dy for dy, _ in found} == set(range(-2, 3))
    assert {dx for _, dx in found} == set(range(-3, 4))
    cut = diff_augment(x, ("cutout",), rng())
    assert bool((cut == 0).flatten(1).any(dim=1).all())


@pytest.mark.parametrize("name", TRANSFORMS)
def test_gradients_to_the_second_order(name):
    x = images(3, 1, 4, 5, torch.float64).requires_grad_(True)

    def transformed(inputs):
        return augment(inputs, (name,), ONE, rng(3))

    assert torch.autograd.gradcheck(transformed, x)
    assert torch.autograd.gradgradcheck(transformed, x)


def test_all_together_in_bfloat16_come_out_in_float32():
    x = images(8).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y = augment_of(0.8)(x, rng())
    assert y.dtype == torch.float32
    assert bool(torch.isfinite(y).all())
    assert torch.equal(y, augment_of(0.8)(x.float(), rng()))


def augment_of(p):
    return Augment(Augmentation("constant", TRANSFORMS, p))


# -- the controller ----------------------------------------------------------------------------------------------------


def test_controller_by_hand():
    controller = Augment(Augmentation("adaptive", ("shift",), target=0.6, every=4, ramp=1000))
    sure, unsure = torch.full((10,), 2.0), torch.tensor([1.0] * 7 + [-1.0] * 3)  # r = 1 and r = 0.4
    course = []
    for logits in [sure] * 4 + [unsure] * 4 + [sure] * 8 + [unsure] * 3 + [sure]:
        controller.observe(logits, 0.0)
        course.append(round(float(controller.probability), 6))
    # Each move is ±(4 batches of 10 images) / 1000, made at every fourth batch.
    # The last four: r = (3·0.4 + 1) / 4 = 0.55 < 0.6.
    assert course == [0] * 3 + [0.04] * 4 + [0.0] * 4 + [0.04] * 4 + [0.08] * 4 + [0.04]
    for _ in range(8):
        controller.observe(-sure, 0.0)
    assert float(controller.probability) == 0.0  # never below
    for _ in range(200):
        controller.observe(sure, 0.0)
    assert float(controller.probability) == 1.0  # nor above


def test_controller_reaches_one_in_its_ramp_and_counts_from_the_losses_boundary():
    controller = Augment(Augmentation("adaptive", ("shift",)))
    for _ in range(500_000 // 100):
        controller.observe(torch.ones(100), 0.0)
    assert float(controller.probability) == pytest.approx(1.0, abs=1e-3)
    assert losses.LOSSES["least_squares"].boundary == 0.5
    assert float(controller.observe(torch.tensor([0.4, 0.7, 0.9, 0.6]), 0.5)) == 0.5


def test_constant_p_stays():
    controller = augment_of(0.3)
    for _ in range(10):
        controller.observe(torch.ones(4), 0.0)
    assert float(controller.probability) == pytest.approx(0.3)


# -- in training -------------------------------------------------------------------------------------------------------


def fast(**over):
    return tiny("stylegan2_ada", augmentation={"ramp": 32, "every": 1}, **over)


def test_training_moves_p_and_shows_it_in_the_curves(data):
    trainer = Trainer(fast(), data, 0, torch.device("cpu"), ignore)
    trainer.architecture.train().requires_grad_(False)
    for _ in range(6):
        trainer.step()
    course, signs = ([float(v) for v in trainer.pending[name]] for name in ("augment.p", "augment.sign"))
    assert len(course) == len(signs) == 6
    p = 0.0
    for moved, sign in zip(course, signs, strict=True):
        p = min(max(p + 4 / 32 * math.copysign(1, sign - 0.6), 0.0), 1.0)
        assert moved == pytest.approx(p)
    tensors, _ = trainer.state()
    for name in ("probability", "signs", "images", "batches"):
        assert f"architecture.augment.{name}" in tensors


def constant(kind, p, **over):
    return built(tiny("stylegan2_ada", augmentation={"kind": kind, "probability": p, **over}), spec())


def test_r1_at_p_0_is_r1_without_augmentation():
    plain, with_p0 = constant("none", 0.0), constant("constant", 0.0)
    batch = Batch(images(4, 1, 16, 16), torch.tensor([0, 1, 0, 1]), Stage(2), rng())
    one, other = plain.r1_loss(batch)[0], with_p0.r1_loss(batch)[0]
    assert torch.equal(one, other)


def test_r1_is_taken_at_the_augmented_images():
    architecture = randomised(constant("constant", 1.0))
    batch = Batch(images(4, 1, 16, 16), torch.tensor([0, 1, 0, 1]), Stage(2), rng(4))
    _, curves = architecture.r1_loss(batch)
    shown = architecture.augment(batch.images, rng(4)).requires_grad_(True)
    (slope,) = torch.autograd.grad(architecture.discriminator(shown, batch.labels, batch.stage).sum(), shown)
    expected = slope.square().sum(dim=(1, 2, 3)).mean()
    torch.testing.assert_close(curves["penalty.r1"].detach(), expected, rtol=1e-4, atol=0)


def test_gradients_reach_the_generator_through_the_transforms():
    architecture = constant("constant", 1.0, transforms=list(TRANSFORMS))
    batch = Batch(images(4, 1, 16, 16), torch.tensor([0, 1, 0, 1]), Stage(2), rng())
    architecture.generator_loss(batch)[0].backward()
    assert float(architecture.generator.constant.grad.abs().max()) > 0


@pytest.mark.parametrize("preset", ["pggan", "dcgan", "cgan", "stylegan"])
@pytest.mark.parametrize("kind", ["constant", "diffaugment"])
def test_augmentation_goes_with_every_network(preset, kind, data):
    over = {"kind": kind, "transforms": ["translate", "cutout"], "probability": 0.5}
    trainer = Trainer(tiny(preset, augmentation=over), data, 0, torch.device("cpu"), ignore)
    trainer.architecture.train().requires_grad_(False)
    for _ in range(2):
        trainer.step()
    assert float(trainer.skipped) == 0


def test_a_poisoned_step_leaves_the_controller_alone(data):
    trainer = Trainer(fast(), data, 0, torch.device("cpu"), ignore)
    trainer.architecture.train().requires_grad_(False)
    trainer.step()
    before = [buffer.clone() for buffer in trainer.architecture.augment.buffers()]
    with torch.no_grad():
        trainer.architecture.discriminator.last.bias.fill_(float("nan"))
    trainer.step()
    assert float(trainer.skipped) == 2  # both networks' losses; no lazy phase is due
    after = trainer.architecture.augment.buffers()
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", ["adaptive", "diffaugment"])
def test_nothing_waits_for_the_device(kind):
    """With tensors that have no values, anything that would read one raises."""
    with FakeTensorMode():
        transforms = TRANSFORMS if kind == "adaptive" else ("translate", "cutout")
        augmentation = Augment(Augmentation(kind, transforms))
        for buffer in augmentation.buffers():
            buffer.copy_(torch.rand(()))
        with pytest.raises(DataDependentOutputException):
            bool(augmentation.probability > 0)  # what it would look like
        shown = augmentation(torch.zeros(4, 1, 8, 8), rng())
        assert shown.shape == (4, 1, 8, 8)
        augmentation.observe(torch.zeros(4), 0.0)
