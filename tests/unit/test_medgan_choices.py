"""Architecture × loss × regularisation × conditioning: sensible products train, senseless ones are refused."""

import pytest
import torch
import torch.nn.functional as F

from medgan import GanConfig, losses, registry
from medgan.contract import Batch
from medgan.networks.dcgan import ClassBatchNorm
from medgan.networks.mlp import Maxout, dropout
from medgan.optimise import GuardedRmsProp, guarded_step
from medgan.sizes import Stage
from medgan.train import Trainer
from tests.unit.medgan_toys import PRESETS, SMALL, built, ignore, randomised, scans, spec, tiny

FAR = 10**9


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return scans(tmp_path_factory.mktemp("data"))


def small(network, loss, regularisation=None, **over):
    """A network with any loss, small, and without what its own preset adds."""
    known = registry.architecture_class(network).Options.__dataclass_fields__
    architecture = {key: value for key, value in SMALL.items() if key in known} | over.pop("architecture", {})
    if network == "dcgan":
        architecture.setdefault("discriminator_norm", "none")
    plain = {"name": "x", "network": network, "loss": loss, "images": 32, "batch": 4, "precision": "float32"}
    return GanConfig.from_dict({**plain, "regularisation": regularisation or {}, "architecture": architecture, **over})


def stepped(config, data, steps=2):
    trainer = Trainer(config, data, 0, torch.device("cpu"), ignore)
    trainer.architecture.train().requires_grad_(False)
    before = [p.clone() for p in trainer.architecture.parameters()]
    for _ in range(steps):
        trainer.step()
    assert float(trainer.skipped) == 0
    assert all(bool(torch.isfinite(p).all()) for p in trainer.architecture.parameters())
    after = trainer.architecture.parameters()
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    return trainer


@pytest.mark.parametrize("network", sorted(registry.NETWORKS))
@pytest.mark.parametrize("loss", sorted(losses.LOSSES))
def test_any_loss_with_any_network(network, loss, data):
    stepped(small(network, loss, {"r1": 1.0} if loss == "wasserstein" else {}), data)


@pytest.mark.parametrize("network", sorted(registry.NETWORKS))
@pytest.mark.parametrize("penalty", [{"r1": 1.0}, {"r1": 1.0, "r1_every": 2}, {"gradient_penalty": 10.0}])
def test_penalties_with_any_critic(network, penalty, data):
    trainer = stepped(small(network, "hinge", penalty), data)
    name = "penalty.gradient" if "gradient_penalty" in penalty else "penalty.r1"
    assert float(trainer.pending[name][0]) > 0


@pytest.mark.parametrize("network", ["mlp", "dcgan"])
def test_clamping_with_networks_of_plain_weights(network, data):
    trainer = stepped(small(network, "wasserstein", {"clip": 0.01}), data)
    weights = torch.cat([p.flatten() for p in trainer.architecture.discriminator.parameters()])
    assert float(weights.abs().max()) <= 0.01
    assert float((weights.abs() == 0.01).float().mean()) > 0.1  # it did bite
    assert max(float(p.abs().max()) for p in trainer.architecture.generator.parameters()) > 0.01


@pytest.mark.parametrize(
    ("network", "loss", "over", "message"),
    [
        ("dcgan", "wasserstein", {}, "the critic's slope is bounded"),
        ("dcgan", "wasserstein", {"regularisation": {"clip": 0.01, "gradient_penalty": 1.0}}, "expected one of them"),
        ("mlp", "bce", {"regularisation": {"clip": 0.01, "r1": 1.0}}, "expected one of them"),
        (
            "dcgan",
            "bce",
            {"architecture": {"discriminator_norm": "batch"}, "regularisation": {"r1": 1.0}},
            "batch norm ties the images",
        ),
        ("mlp", "bce", {"regularisation": {"path_length": 1.0}}, "mlp has no w"),
        (
            "dcgan",
            "bce",
            {"conditioning": {"discriminator": "input"}},
            "no place for; expected projection or auxiliary",
        ),
        ("pggan", "bce", {"conditioning": {"generator": "batch_norm"}}, "no place for; expected embedding or none"),
        ("mlp", "bce", {"conditioning": {"discriminator": "projector"}}, "did you mean 'projection'"),
        ("mlp", "bce", {"optimiser": {"kind": "rmsprop", "beta1": 0.5}}, "RMSProp has no first moment"),
        ("mlp", "bce", {"optimiser": {"kind": "adamw"}}, "did you mean 'adam'"),
        (
            "dcgan",
            "wasserstein",
            {"regularisation": {"r1": 1.0}, "augmentation": {"kind": "adaptive", "transforms": ["shift"]}},
            "no value of a logit says so",
        ),
        ("mlp", "bce", {"augmentation": {"kind": "adaptive"}}, "transforms: found none, expected one or more of flip"),
        ("mlp", "bce", {"augmentation": {"kind": "adaptive", "transforms": ["flips"]}}, "did you mean 'flip'"),
        ("mlp", "bce", {"augmentation": {"kind": "diffaugment", "transforms": ["flip"]}}, "known: cutout, translate"),
        ("mlp", "bce", {"augmentation": {"kind": "constant", "transforms": "flip"}}, "expected a list of texts"),
        ("mlp", "bcee", {}, "loss: unknown 'bcee'; did you mean 'bce'"),
    ],
)
def test_senseless_products_are_refused_with_a_reason(network, loss, over, message):
    with pytest.raises(ValueError, match=r".") as caught:
        small(network, loss, **over)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# -- conditioning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", sorted(registry.NETWORKS))
def test_every_conditioning_a_network_offers(network, data):
    kind = registry.architecture_class(network)
    zeros, ones, stage = torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64), Stage(2)
    for generator in kind.generator_conditions:
        for discriminator in kind.discriminator_conditions:
            config = small(network, "bce", conditioning={"generator": generator, "discriminator": discriminator})
            trainer = stepped(config, data, steps=1)
            architecture = randomised(trainer.architecture).eval()
            z, images = torch.randn(3, 8), torch.randn(3, 1, 16, 16)
            drawn = [architecture.generator(z, labels, stage, None) for labels in (zeros, ones)]
            judged = [architecture.discriminator(images, labels, stage) for labels in (zeros, ones)]
            assert torch.equal(*drawn) == (generator == "none"), generator
            assert torch.equal(*judged) == (discriminator in ("none", "auxiliary")), discriminator
            assert ("loss.class" in trainer.pending) == (discriminator == "auxiliary")


@pytest.mark.parametrize("network", sorted(registry.NETWORKS))
def test_a_single_class_has_nothing_to_tell(network):
    kind = registry.architecture_class(network)
    sizes = {
        sum(p.numel() for p in built(small(network, "bce", conditioning=c), spec(classes=("all",))).parameters())
        for c in [{"discriminator": d} for d in kind.discriminator_conditions]
        + [{"generator": g} for g in kind.generator_conditions]
    }
    assert len(sizes) == 1


def test_the_preset_gan_sees_no_label():
    architecture = randomised(built(tiny("gan"), spec())).eval()
    z, images, stage = torch.randn(3, 8), torch.randn(3, 1, 16, 16), Stage(2)
    zeros, ones = torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)
    assert torch.equal(architecture.generator(z, zeros, stage, None), architecture.generator(z, ones, stage, None))
    assert torch.equal(
        architecture.discriminator(images, zeros, stage), architecture.discriminator(images, ones, stage)
    )


def test_auxiliary_losses_by_hand():
    config = small("dcgan", "bce", conditioning={"discriminator": "auxiliary", "auxiliary": 0.7})
    architecture = built(config, spec())
    with torch.no_grad():
        for parameter in architecture.discriminator.parameters():  # scores of about 1, where no logarithm overflows
            parameter.mul_(8.0)
    labels = torch.tensor([0, 1, 1, 0])
    batch = Batch(torch.randn(4, 1, 16, 16), labels, Stage(2), torch.Generator().manual_seed(1))
    loss, _ = architecture.discriminator_loss(batch)
    batch.rng.manual_seed(1)
    fake = architecture.fakes(batch)
    assert architecture.discriminator(batch.images, labels, batch.stage).std().item() > 0.01
    expected = torch.zeros(())
    for images, sign in ((batch.images, 1.0), (fake, -1.0)):
        scores = architecture.discriminator.score(images, labels, batch.stage, None)
        named = scores[:, 1:].softmax(dim=1)[torch.arange(4), labels]
        expected = expected - torch.sigmoid(sign * scores[:, 0]).log().mean() - 0.7 * named.log().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    batch.rng.manual_seed(1)
    loss, _ = architecture.generator_loss(batch)
    scores = architecture.discriminator.score(fake, labels, batch.stage, None)
    named = scores[:, 1:].softmax(dim=1)[torch.arange(4), labels]
    torch.testing.assert_close(
        loss, -torch.sigmoid(scores[:, 0]).log().mean() - 0.7 * named.log().mean(), rtol=1e-4, atol=1e-4
    )


def test_class_batch_norm_scales_and_shifts_by_class():
    norm = ClassBatchNorm(3, classes=4)
    norm.draw_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        norm.shifts.normal_()
    x, labels = torch.randn(5, 3, 4, 4) * 2 + 1, torch.tensor([3, 0, 1, 1, 2])
    y = norm.train().restyle(x, labels)
    mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)  # over all classes
    for n in range(5):
        for c in range(3):
            normed = (x[n, c] - mean[c]) / (variance[c] + 1e-5).sqrt()
            wanted = norm.scales[labels[n], c] * normed + norm.shifts[labels[n], c]
            torch.testing.assert_close(y[n, c], wanted, rtol=1e-4, atol=1e-4)


# -- the fully connected networks --------------------------------------------------------------------------------------


def test_maxout_is_the_largest_of_its_pieces():
    layer = randomised(Maxout(5, 4, 3)).requires_grad_(False)
    x = torch.randn(6, 5)
    y = layer(x)
    for unit in range(4):
        rows = slice(3 * unit, 3 * unit + 3)
        pieces = [x @ w + b for w, b in zip(layer.linear.weight[rows], layer.linear.bias[rows], strict=True)]
        torch.testing.assert_close(y[:, unit], torch.stack(pieces).max(dim=0).values)


def test_dropout_follows_its_generator_and_keeps_the_mean():
    x = torch.ones(200, 200)
    dropped = dropout(x, 0.3, torch.Generator().manual_seed(5))
    torch.manual_seed(99)  # the global generator has no say
    assert torch.equal(dropped, dropout(x, 0.3, torch.Generator().manual_seed(5)))
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)
    assert dropout(x, 0.3, None) is x
    assert dropout(x, 0.0, torch.Generator()) is x


def test_only_training_drops():
    architecture = built(tiny("cgan"), spec())
    labels, images = torch.tensor([0, 1]), torch.randn(2, 1, 16, 16)

    def judged(rng):
        return architecture.discriminator(images, labels, Stage(2), rng)

    assert torch.equal(judged(None), judged(None))
    assert not torch.equal(judged(torch.Generator().manual_seed(0)), judged(torch.Generator().manual_seed(1)))


def test_the_papers_fully_connected_networks():
    with torch.device("meta"):
        architecture = registry.build(paper("gan"), spec(32, 32))
    assert [tuple(layer.weight.shape) for layer in (architecture.generator.first, architecture.generator.second)] == [
        (1200, 100),
        (1200, 1200),
    ]
    assert architecture.discriminator.first.linear.weight.shape == (240 * 5, 32 * 32)


def paper(preset):
    from pipeline.config import expand_preset

    return GanConfig.from_dict(expand_preset("gan", preset, None, preset))


# -- optimisers, presets -----------------------------------------------------------------------------------------------


def test_rmsprop_is_torchs_but_for_steps_it_leaves_out():
    mine, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3)) for _ in range(2))
    ours = GuardedRmsProp([mine], lr=0.01, alpha=0.9, eps=1e-8)
    reference = torch.optim.RMSprop([theirs], lr=0.01, alpha=0.9, eps=1e-8)
    for step in range(5):
        for weight in (mine, theirs):
            loss = ((weight - 0.3 * step) ** 3).sum()
            loss.backward()
            if weight is mine:
                assert float(guarded_step(ours, loss)) == 0
        reference.step()
        reference.zero_grad()
        torch.testing.assert_close(mine, theirs)
    kept, square = mine.clone(), ours.state[mine]["square_avg"].clone()
    for poison in (float("nan"), float("inf")):
        loss = (mine * poison).sum()
        loss.backward()
        assert float(guarded_step(ours, loss)) == 1
        assert torch.equal(mine, kept)
        assert torch.equal(ours.state[mine]["square_avg"], square)


def test_what_the_presets_are():
    found = {name: paper(name) for name in PRESETS}
    assert {
        "gan": ("mlp", "bce"),
        "cgan": ("mlp", "bce"),
        "dcgan": ("dcgan", "bce"),
        "lsgan": ("dcgan", "least_squares"),
        "wgan": ("dcgan", "wasserstein"),
        "wgan_gp": ("dcgan", "wasserstein"),
        "pggan": ("pggan", "wasserstein"),
        "pggan_lsgan": ("pggan", "least_squares"),
        "stylegan": ("stylegan", "non_saturating"),
        "stylegan2": ("stylegan2", "non_saturating"),
        "stylegan2_ada": ("stylegan2", "non_saturating"),
    }.items() <= {name: (config.network, config.loss) for name, config in found.items()}.items()
    clipped, penalised = found["wgan"], found["wgan_gp"]
    assert (clipped.regularisation.clip, clipped.critic_steps, clipped.optimiser.kind) == (0.01, 5, "rmsprop")
    assert clipped.optimiser.generator_rate == clipped.optimiser.discriminator_rate == 5e-5
    assert (penalised.regularisation.gradient_penalty, penalised.critic_steps) == (10.0, 5)
    adam = penalised.optimiser
    assert (adam.kind, adam.generator_rate, adam.beta1, adam.beta2) == ("adam", 1e-4, 0.0, 0.9)
    assert clipped.architecture["discriminator_norm"] == penalised.architecture["discriminator_norm"] == "none"


def test_least_squares_pggan_has_noise_that_grows_with_the_discriminators_certainty():
    architecture = randomised(built(tiny("pggan_lsgan"), spec()))
    discriminator, stage, labels = architecture.discriminator, Stage(2), torch.tensor([0, 1])
    images = torch.randn(2, 1, 16, 16)

    def judged(seed):
        return discriminator(images, labels, stage, None if seed is None else torch.Generator().manual_seed(seed))

    discriminator.track(torch.tensor(5.0))
    assert float(discriminator.mean_logit) == pytest.approx(0.5)
    assert torch.equal(judged(0), judged(None))  # 0.2·max(0, ½ − ½)² = 0
    discriminator.track(torch.tensor(8.0))
    assert float(discriminator.mean_logit) == pytest.approx(1.25)
    assert not torch.equal(judged(0), judged(None))
    assert torch.equal(judged(0), judged(0))
    x = torch.ones(4, 8, 16, 16)
    noise = discriminator._jitter(torch.Generator().manual_seed(0))(x) - 1
    assert float(noise.std()) == pytest.approx(0.2 * 0.75**2, rel=0.05)
    batch = Batch(images, labels, stage, torch.Generator().manual_seed(0))
    _, curves = architecture.discriminator_loss(batch)
    assert float(discriminator.mean_logit) == pytest.approx(0.9 * 1.25 + 0.1 * curves["logit.real"].item(), rel=1e-4)


def test_the_noise_is_on_the_input_of_every_convolution_larger_than_1x1():
    discriminator = built(tiny("pggan_lsgan"), spec()).discriminator
    discriminator._jitter = lambda rng: lambda x: torch.full_like(x, 7.0)  # leaves its mark
    marked = {}
    for name, layer in discriminator.named_modules():
        if hasattr(layer, "scale"):
            layer.register_forward_pre_hook(lambda _, x, name=name: marked.update({name: bool((x[0] == 7.0).all())}))
    discriminator(torch.randn(2, 1, 16, 16), torch.tensor([0, 1]), Stage(2), torch.Generator())
    convolutions = {"blocks.0.conv0", "blocks.0.conv1", "blocks.1.conv0", "blocks.1.conv1", "conv", "dense"}
    assert {name for name, mark in marked.items() if mark} == convolutions  # dense is the 4x4 one
    assert marked.keys() - convolutions == {"from_rgb.2", "last"}


def test_drift_and_cross_entropy_use_no_other_outputs():
    scores = torch.randn(4, 3)
    architecture = built(small("dcgan", "bce", conditioning={"discriminator": "auxiliary"}), spec())
    labels = torch.tensor([1, 0, 1, 1])
    assert torch.equal(architecture.discriminator.logits(scores, labels), scores[:, 0])
    batch = Batch(torch.zeros(4, 1, 16, 16), labels, Stage(2), torch.Generator())
    torch.testing.assert_close(architecture.class_loss(scores, batch), F.cross_entropy(scores[:, 1:], labels))
