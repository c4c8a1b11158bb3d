"""Transitional training: from unconditional to conditional, exact at both ends, and resumed to the bit."""

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from medgan import losses
from medgan.contract import Batch
from medgan.options import Conditioning
from medgan.sizes import Stage
from medgan.train import Trainer
from tests.unit.medgan_toys import CONDITIONAL, built, ignore, randomised, scans, spec, tiny

LABELS = torch.tensor([0, 1, 1, 0])
OTHERS = 1 - LABELS
WINDOW = {"transition_start": 8, "transition_end": 24}


def at(label, images=None, seed=0):
    images = torch.zeros(4, 1, 16, 16) if images is None else images
    return Batch(images, LABELS, Stage(2, label=label), torch.Generator().manual_seed(seed))


def test_the_window():
    conditioning = Conditioning(transition_start=100, transition_end=300)
    assert [conditioning.label_at(seen) for seen in (0, 100, 150, 200, 300, 999)] == [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]
    assert Conditioning().label_at(0) == 1.0
    architecture = built(tiny("pggan", conditioning=WINDOW), spec())
    assert [architecture.stage_at(seen).label for seen in (0, 8, 16, 24, 32)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert architecture.stage_at(0).level == 0  # growing goes on beside it


@pytest.mark.parametrize(
    ("preset", "conditioning", "message"),
    [
        ("gan", WINDOW, "transition_end: found 24 beside generator: none.*never learns of the class"),
        ("dcgan", {**WINDOW, "discriminator": "none"}, "beside discriminator: none"),
        ("dcgan", {"transition_start": 8}, "transition_end: found 0, expected more than transition_start"),
        ("dcgan", {"transition_start": 8, "transition_end": 8}, "more than transition_start"),
        ("dcgan", {"transition_end": 33}, r"conditioning.transition_end: found 33, expected at most images \(32\)"),
    ],
)
def test_what_makes_no_sense_is_refused(preset, conditioning, message):
    with pytest.raises(ValueError, match=message):
        tiny(preset, conditioning=conditioning)


VARIANTS = [*((preset, {}) for preset in CONDITIONAL), ("dcgan", {"generator": "batch_norm"})]


@pytest.mark.parametrize(("preset", "how"), VARIANTS)
def test_both_networks_at_the_ends_and_between(preset, how):
    """At 0 no output depends on the class, at 1 all are today's to the bit, between them the class has its share."""
    architecture = randomised(built(tiny(preset, conditioning=how), spec())).eval()
    rng = torch.Generator().manual_seed(1)
    z, images = torch.randn(4, 8, generator=rng), torch.randn(4, 1, 16, 16, generator=rng)

    def outputs(labels, *label):
        stage = Stage(2, 1.0, *label)
        with torch.no_grad():
            return architecture.generator(z, labels, stage, None), architecture.discriminator(images, labels, stage)

    for mine, other in zip(outputs(LABELS, 0.0), outputs(OTHERS, 0.0), strict=True):
        assert torch.equal(mine, other)
    for mine, other in zip(outputs(LABELS, 1.0), outputs(LABELS), strict=True):
        assert torch.equal(mine, other)
    for label in (0.5, 1.0):
        for mine, other in zip(outputs(LABELS, label), outputs(OTHERS, label), strict=True):
            assert not torch.allclose(mine, other)


def test_the_weight_is_linear_where_the_class_enters():
    """In the discriminator's logit, and in the sum that the generator's first layer makes of latent and class."""
    architecture = randomised(built(tiny("pggan"), spec()))
    images, z = torch.randn(4, 1, 16, 16), torch.randn(4, 8)
    with torch.no_grad():
        none, third, whole = (architecture.discriminator(images, LABELS, Stage(2, label=k)) for k in (0.0, 0.3, 1.0))
        torch.testing.assert_close(third, torch.lerp(none, whole, 0.3))
        net = architecture.generator
        none, third, whole = (net.first(net.embedding(z, LABELS, k)) for k in (0.0, 0.3, 1.0))
        torch.testing.assert_close(third, torch.lerp(none, whole, 0.3))


@pytest.mark.parametrize("label", [0.0, 0.3, 1.0])
def test_the_loss_is_the_unconditional_games_and_the_conditional_ones(label):
    """L_u + λ·L_c with R1 in both, against the two written out."""
    settings = {"regularisation": {"r1": 4.0, "r1_every": 1}, "conditioning": WINDOW}
    architecture = randomised(built(tiny("stylegan2", **settings), spec()))
    real = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    loss, _ = architecture.discriminator_loss(at(label, real))
    with torch.no_grad():
        fake = architecture.fakes(at(label, real))
    net, stage = architecture.discriminator, Stage(2, label=label)

    def game(read):
        logits = [read(net.score(images, LABELS, stage, None)) for images in (real, fake)]
        penalty = losses.r1(lambda images: read(net.score(images, LABELS, stage, None)), real)
        return F.softplus(-logits[0]).mean() + F.softplus(logits[1]).mean() + 4.0 / 2 * penalty

    unconditional = game(lambda scores: scores[:, 0])
    conditional = game(lambda scores: scores[:, 0] + scores[range(4), 1 + LABELS])
    torch.testing.assert_close(loss, unconditional + label * conditional)
    loss, _ = architecture.generator_loss(at(label))
    scores = net.score(architecture.fakes(at(label)), LABELS, stage, None)
    both = F.softplus(-scores[:, 0]).mean(), F.softplus(-scores[:, 0] - scores[range(4), 1 + LABELS]).mean()
    torch.testing.assert_close(loss, both[0] + label * both[1])


@pytest.mark.parametrize("how", ["projection", "auxiliary", "input"])
def test_at_zero_no_label_has_a_part_in_training(how):
    """Labels drawn anew leave both losses and all gradients as they are; at 0.5 they do not."""
    preset = "cgan" if how == "input" else "wgan_gp"
    config = tiny(preset, conditioning={**WINDOW, "discriminator": how})
    architecture = randomised(built(config, spec()))
    real = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(2))

    def gradients(labels, label):
        found = []
        for phase in architecture.phases():
            architecture.zero_grad()
            loss, _ = phase.loss(dataclasses.replace(at(label, real), labels=labels))
            loss.backward()
            named = getattr(architecture, phase.network).named_parameters()
            found += [loss.detach(), *(p.grad.clone() for _, p in named if p.grad is not None)]
        return found

    def same(label):
        pairs = zip(gradients(LABELS, label), gradients(OTHERS, label), strict=True)
        return all(torch.equal(one, other) for one, other in pairs)

    assert same(0.0)
    assert not same(0.5)


def test_the_curve_and_the_artifact_say_where_it_stands(tmp_path):
    data = scans(tmp_path)
    trainer = Trainer(tiny("dcgan", conditioning=WINDOW), data, 0, torch.device("cpu"), ignore)
    for _ in range(4):
        trainer.step()
    trainer.flush_curves()
    assert trainer.now.curves["stage.label"] == [(16.0, 0.5)]
    loaded = trainer.loaded()
    loaded.save(tmp_path / "half")
    assert json.loads((tmp_path / "half/generator.json").read_text())["stage"]["label"] == 0.5


@pytest.mark.thorough
def test_killed_at_any_moment_and_resumed_to_the_bit(tmp_path):
    """SIGKILL at random moments of the window, again and again, until a run comes through."""
    data = scans(tmp_path / "data")
    window = {"transition_start": 100, "transition_end": 700}
    config = tiny("dcgan", images=800, checkpoint_seconds=0.0, conditioning=window)
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)), encoding="utf-8")

    def start(name):
        given = [str(data.artifact.path), str(tmp_path / "config.json"), "--out", str(tmp_path / name)]
        options = ["--seed", "3", "--scratch", str(tmp_path / f"{name}-scratch"), "--device", "cpu"]
        return subprocess.Popen([sys.executable, "-m", "medgan.distributed", *given, *options])

    assert start("straight").wait(timeout=300) == 0
    moments, kills = random.Random(0), 0
    scratch = tmp_path / "cut-scratch"
    while not (tmp_path / "cut").exists():
        process = start("cut")
        before = newest(scratch)
        if kills < 2:
            target = before + moments.randrange(20, 80)  # of 200 steps
            while newest(scratch) < target and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            kills += 1
        else:
            assert process.wait(timeout=300) == 0
    one, other = (load_file(tmp_path / name / "state/tensors.safetensors") for name in ("straight", "cut"))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert (tmp_path / "straight/curves.json").read_bytes() == (tmp_path / "cut/curves.json").read_bytes()


def newest(scratch):
    """Step of the newest checkpoint; 0 if there is none."""
    return max((int(path.name.partition("-")[2]) for path in scratch.glob("step-*")), default=0)
