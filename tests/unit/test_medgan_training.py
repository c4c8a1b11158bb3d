"""The trainer: every preset learns, resumes to the bit, survives damage, and says when it diverged."""

import errno
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medgan.checkpoint import latest_checkpoint, save_checkpoint
from medgan.contract import Batch
from medgan.data import ResidentImages
from medgan.optimise import GuardedAdam, average, build_optimisers, ema_decay, guarded_step
from medgan.options import Optimiser
from medgan.sizes import Stage
from medgan.train import Trainer, train
from pipeline.records import MedaugError
from tests.unit.medgan_toys import PRESETS, built, ignore, scans, spec, tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return scans(tmp_path_factory.mktemp("data"))


def fit(config, data, folder, scratch=None, progress=ignore, log=ignore, **hooks):
    scratch, output = scratch or folder / "scratch", folder / "out"
    for path in (scratch, output):
        path.mkdir(parents=True, exist_ok=True)
    return train(config, data, 3, scratch, output, device="cpu", log=log, progress=progress, **hooks)


class KilledError(Exception):
    pass


def kill_at(images):
    def progress(done, total):
        if done >= images:
            raise KilledError

    return progress


@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_changes_both_networks_and_the_average(preset, data):
    trainer = Trainer(tiny(preset), data, 0, torch.device("cpu"), ignore)
    trainer.architecture.train().requires_grad_(False)
    parts = {"generator": trainer.architecture.generator, "discriminator": trainer.architecture.discriminator}
    parts["average"] = trainer.averaged
    before = {name: [p.clone() for p in part.parameters()] for name, part in parts.items()}
    trainer.step()
    for name, part in parts.items():
        changed = [not torch.equal(old, new) for old, new in zip(before[name], part.parameters(), strict=True)]
        assert any(changed), name
    assert float(trainer.skipped) == 0


def test_an_interrupt_loses_nothing(data, tmp_path):
    config = tiny("dcgan", checkpoint_seconds=3600)

    def interrupt(done, total):
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, data, tmp_path, progress=interrupt)
    seen = []
    fit(config, data, tmp_path, progress=lambda done, total: seen.append(done))
    assert seen[0] == 16 + config.batch
    fit(config, data, tmp_path / "unbroken")
    first, second = (load_file(tmp_path / where / "out" / "generator.safetensors") for where in ("", "unbroken"))
    assert all(torch.equal(first[name], second[name]) for name in second)


@pytest.mark.parametrize("preset", PRESETS)
def test_resumed_equals_uninterrupted_to_the_bit(preset, data, tmp_path):
    # Growing ends within the run, and lazy phases run before and after the cut.
    lazy = {"r1_every": 2, "path_length_every": 2}
    regularisation = {"stylegan2": lazy, "stylegan2_ada": lazy, "stylegan": {"r1_every": 2}}.get(preset, {})
    augmentation = (
        {"every": 3, "ramp": 64, "target": -0.9} if preset == "stylegan2_ada" else {}
    )  # p moves, and the cuts fall between
    config = tiny(preset, checkpoint_seconds=0.0, regularisation=regularisation, augmentation=augmentation)
    straight = fit(config, data, tmp_path / "straight")
    scratch = tmp_path / "scratch"
    for images in (12, 24):
        with pytest.raises(KilledError):
            fit(config, data, tmp_path / "cut", scratch, kill_at(images))
    resumed = fit(config, data, tmp_path / "cut", scratch)
    one, other = (load_file(tmp_path / run / "out/state/tensors.safetensors") for run in ("straight", "cut"))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert contents(tmp_path / "cut/out") == contents(tmp_path / "straight/out")
    assert resumed.curves == straight.curves
    assert resumed.images_seen == straight.images_seen == 32
    if preset == "stylegan2_ada":
        assert max(p for _, p in straight.curves["augment.p"]) > 0


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("skip_limit", [50, 1])
def test_a_cut_between_curve_points_leaves_no_trace_in_the_artifact(skip_limit, data, tmp_path, monkeypatch):
    # With limit 1 the poisoned step 6 is a divergence, which a run sees at its next curve point and no earlier.
    monkeypatch.setattr("medgan.train.CURVE_POINTS", 2)
    draw = ResidentImages.draw

    def poisoned(self, position, count):
        images, labels = draw(self, position, count)
        return (images * float("nan") if position >= 20 and skip_limit == 1 else images), labels

    monkeypatch.setattr(ResidentImages, "draw", poisoned)
    config = tiny("dcgan", checkpoint_seconds=0.0, skip_limit=skip_limit)
    fit(config, data, tmp_path / "straight")
    for images in (8, 24):
        with pytest.raises(KilledError):
            fit(config, data, tmp_path / "cut", tmp_path / "scratch", kill_at(images))
    fit(config, data, tmp_path / "cut", tmp_path / "scratch")
    assert contents(tmp_path / "cut/out") == contents(tmp_path / "straight/out")


def test_wall_time_survives_in_checkpoints(data, tmp_path):
    config = tiny("dcgan", checkpoint_seconds=0.0)
    with pytest.raises(KilledError):
        fit(config, data, tmp_path, progress=kill_at(8))
    newest = sorted((tmp_path / "scratch").glob("step-*"))[-1] / "state.json"
    state = json.loads(newest.read_text())
    state["now"]["seconds"] += 1000.0
    newest.write_text(json.dumps(state))
    assert fit(config, data, tmp_path).seconds > 1000.0


@pytest.mark.parametrize("preset", PRESETS)
def test_bfloat16_trains_too(preset, data, tmp_path):
    result = fit(tiny(preset, precision="bfloat16", images=8), data, tmp_path)
    assert result.status == "done"
    assert result.curves["skipped"][-1][1] == 0.0
    assert np.isfinite(result.curves["loss.generator"][-1][1])


def test_damaged_checkpoint_is_named_and_the_one_before_it_used(data, tmp_path, caplog):
    config = tiny("dcgan", checkpoint_seconds=0.0)
    straight = fit(config, data, tmp_path / "straight")
    scratch = tmp_path / "scratch"
    with pytest.raises(KilledError):
        fit(config, data, tmp_path / "cut", scratch, kill_at(16))
    newest = sorted(scratch.glob("step-*"))[-1]
    assert len(list(scratch.glob("step-*"))) == 2  # the last good two
    assert len(list(scratch.glob("good-*"))) == 2
    weights = newest / "tensors.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        resumed = fit(config, data, tmp_path / "cut", scratch)
    assert str(newest) in caplog.text
    assert resumed.curves == straight.curves


@pytest.mark.parametrize("damage", ["truncate", "changed", "no json", "half json", "other json", "empty folder"])
def test_kinds_of_damage(damage, tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"x": torch.full((3,), float(step))}, {"step": step})
    newest = tmp_path / "step-000000002"
    if damage == "truncate":
        (newest / "tensors.safetensors").write_bytes(b"\x00" * 4)
    elif damage == "no json":
        (newest / "state.json").unlink()
    elif damage == "changed":
        other = tmp_path / "step-000000001/tensors.safetensors"
        (newest / "tensors.safetensors").write_bytes(other.read_bytes())
    elif damage == "other json":
        (newest / "state.json").write_text("[2]")
    elif damage == "half json":
        (newest / "state.json").write_text('{"step": 2')
    else:
        shutil.rmtree(newest)
        newest.mkdir()
    tensors, state = latest_checkpoint(tmp_path)
    assert state == {"step": 1}
    assert tensors["x"].tolist() == [1.0, 1.0, 1.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged-step-000000002", "step-000000001"]
    (tmp_path / "step-000000001/state.json").unlink()
    assert latest_checkpoint(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["damaged-step-000000001"]  # one at most


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("function", ["read_text", "open"])  # the state's, the tensors'
def test_a_checkpoint_that_cannot_be_read_now_is_no_damage(function, code, tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"x": torch.ones(3)}, {"step": 1})
    content = contents(tmp_path)
    with monkeypatch.context() as patch:

        def fail(self, *args, **kwargs):
            raise OSError(code, os.strerror(code), str(self))

        patch.setattr(Path, function, fail)
        with pytest.raises(MedaugError, match=f"step-000000001: cannot be read now .{os.strerror(code)}"):
            latest_checkpoint(tmp_path)
    assert contents(tmp_path) == content
    assert latest_checkpoint(tmp_path)[1] == {"step": 1}


def test_what_a_process_killed_while_writing_left_behind_is_removed(data, tmp_path):
    scratch = tmp_path / "scratch"
    for name in (".step-000000003.4711", ".good-000000002.4711"):
        (scratch / name).mkdir(parents=True)
    (scratch / ".step-000000003.4711/tensors.safetensors").write_bytes(b"half")
    (scratch / "timeline.json").write_text("[]")
    fit(tiny("dcgan", checkpoint_seconds=1e9, images=8), data, tmp_path)
    assert [path.name for path in scratch.iterdir() if path.name.startswith(".")] == []
    assert (scratch / "timeline.json").exists()


def test_checkpoint_of_another_configuration_is_refused(data, tmp_path):
    with pytest.raises(KilledError):
        fit(tiny("dcgan", checkpoint_seconds=0.0), data, tmp_path, progress=kill_at(8))
    with pytest.raises(MedaugError, match="made with another configuration;"):
        fit(tiny("dcgan", checkpoint_seconds=0.0, ema=0.5), data, tmp_path)


def test_checkpoint_of_another_dataset_is_refused(data, tmp_path):
    """Same form, same configuration, other images: going on would mix two splits' patients."""
    config = tiny("dcgan", checkpoint_seconds=0.0)
    with pytest.raises(KilledError):
        fit(config, data, tmp_path, progress=kill_at(8))
    with pytest.raises(MedaugError, match="made with another dataset;"):
        fit(config, scans(tmp_path / "other", count=20), tmp_path)
    assert fit(config, data, tmp_path).status == "done"


def hardware(monkeypatch, bfloat16):
    for module in ("pipeline.device", "medgan.train"):
        monkeypatch.setattr(f"{module}.has_bfloat16", lambda kind: bfloat16)


@pytest.mark.parametrize("bfloat16", [True, False])
def test_what_auto_precision_was_is_written_down(bfloat16, data, tmp_path, monkeypatch):
    hardware(monkeypatch, bfloat16)
    fit(tiny("dcgan", precision="auto", images=8), data, tmp_path)
    for file in ("generator.json", "state/state.json"):
        written = json.loads((tmp_path / "out" / file).read_text())
        assert written["precision"] == ("bfloat16" if bfloat16 else "float32")
        assert written["device"] == "cpu"


def test_auto_precision_is_kept_where_it_would_mean_another(data, tmp_path, monkeypatch, caplog):
    config = tiny("dcgan", precision="auto", checkpoint_seconds=0.0)
    hardware(monkeypatch, False)
    straight = fit(config, data, tmp_path / "straight")
    with pytest.raises(KilledError):
        fit(config, data, tmp_path / "cut", progress=kill_at(8))
    hardware(monkeypatch, True)
    assert fit(config, data, tmp_path / "cut").curves == straight.curves
    assert contents(tmp_path / "cut/out") == contents(tmp_path / "straight/out")
    assert "auto is bfloat16 here; goes on in float32" in caplog.text
    with pytest.raises(KilledError):
        fit(config, data, tmp_path / "narrow", progress=kill_at(8))
    hardware(monkeypatch, False)
    with pytest.raises(MedaugError, match="made in bfloat16, in which this machine's cpu does not compute"):
        fit(config, data, tmp_path / "narrow")


def test_output_hooks_and_curves(data, tmp_path):
    logged, seen, grids = [], [], []

    def judge(images_seen, generator):
        seen.append((images_seen, generator.sample([0, 1]).shape))
        return {"score": float(images_seen), "broken": float("nan")}

    result = fit(
        tiny("pggan", images=31),
        data,
        tmp_path,
        log=lambda values, step: logged.append((step, dict(values))),
        on_snapshot=judge,
        on_grid=lambda images_seen, picture: grids.append(picture),
    )
    assert [images for images, _ in seen] == [16, 32]
    assert {shape for _, shape in seen} == {(2, 1, 16, 16)}  # full size, however far it has grown
    assert result.curves["score"] == [(16.0, 16.0), (32.0, 32.0)]
    assert "broken" not in result.curves
    assert {picture.shape for picture in grids} == {(2 * 16, 8 * 16)}
    assert grids[0].dtype == np.uint8
    assert json.loads((tmp_path / "out/curves.json").read_text())["score"] == [[16.0, 16.0], [32.0, 32.0]]
    assert {"loss.discriminator", "loss.generator", "penalty.gradient"} <= set(result.curves)
    assert all(np.isfinite(value) for _, values in logged for value in values.values())
    card = json.loads((tmp_path / "out/generator.json").read_text())
    assert card["seed"] == 3
    assert card["parameters"] == dict(result.parameters)
    assert result.parameters["generator"] == sum(p.numel() for p in built(tiny("pggan"), spec()).generator.parameters())


def test_divergence_is_a_result(data, tmp_path, monkeypatch):
    draw = ResidentImages.draw

    def poisoned(self, position, count):
        images, labels = draw(self, position, count)
        return (images * float("nan") if position >= 8 else images), labels

    monkeypatch.setattr(ResidentImages, "draw", poisoned)
    result = fit(tiny("pggan", skip_limit=6, images=400), data, tmp_path)
    assert result.status == "diverged"
    assert "non-finite" in result.reason
    assert "gone back 2 times" in result.reason
    assert [count for _, count in result.curves["rollback"]] == [1.0, 2.0]
    assert result.images_seen < 100
    weights = load_file(tmp_path / "out/generator.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())  # what came before it is usable


def test_a_poisoned_gradient_leaves_weights_and_moments_alone():
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = GuardedAdam([weight], lr=0.1, fused=True)
    assert float(guarded_step(optimiser, backward(weight, 1.0))) == 0
    after, moments = weight.clone(), optimiser.state[weight]["exp_avg"].clone()
    for poison in (float("nan"), float("inf")):
        assert float(guarded_step(optimiser, backward(weight, poison))) == 1
        assert torch.equal(weight, after)
        assert torch.equal(optimiser.state[weight]["exp_avg"], moments)
        assert float(optimiser.state[weight]["step"]) == 1
    assert float(guarded_step(optimiser, backward(weight, 1.0))) == 0
    assert not torch.equal(weight, after)


def test_a_poisoned_step_leaves_running_statistics_alone(data, monkeypatch):
    trainer = Trainer(tiny("dcgan"), data, 0, torch.device("cpu"), ignore)
    trainer.architecture.train().requires_grad_(False)
    trainer.step()
    before = {name: b.clone() for name, b in trainer.architecture.named_buffers() if b.is_floating_point()}
    assert any(name.startswith("generator.") for name in before)
    with torch.no_grad():
        trainer.architecture.generator.project.weight[0] = float("inf")  # spoils every image, in both phases
    trainer.step()
    assert float(trainer.skipped) == 2
    after = dict(trainer.architecture.named_buffers())
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []
    assert all(bool(torch.isfinite(value).all()) for value in trainer.averaged.buffers())
    with torch.no_grad():
        trainer.architecture.generator.project.weight[0] = 0.01
    trainer.step()
    assert float(trainer.skipped) == 2
    after = dict(trainer.architecture.named_buffers())
    assert [name for name, value in before.items() if torch.equal(value, after[name])] == []


def backward(weight, factor):
    loss = (weight * factor).sum()
    loss.backward()
    return loss


def test_lazy_regularisation_corrects_adam():
    config = tiny("stylegan2")
    optimisers = build_optimisers(
        built(config, spec()), built(config, spec()).phases(), Optimiser(0.002, 0.002, 0.5, 0.99)
    )
    for name, every in (("discriminator", 16), ("generator", 4)):
        c = every / (every + 1)
        group = optimisers[name].param_groups[0]
        assert group["lr"] == pytest.approx(0.002 * c)
        assert group["betas"] == pytest.approx((0.5**c, 0.99**c))


def test_lazy_correction_counts_the_networks_own_updates():
    # The generator is updated at every 5th step and its path length at every 20th: 4 updates to 1, c = 4/5.
    architecture = built(tiny("stylegan2", critic_steps=5), spec())
    optimisers = build_optimisers(architecture, architecture.phases(), Optimiser(0.002, 0.002, 0.5, 0.99))
    for name, c in (("generator", 4 / 5), ("discriminator", 16 / 17)):
        assert optimisers[name].param_groups[0]["lr"] == pytest.approx(0.002 * c)
        assert optimisers[name].param_groups[0]["betas"] == pytest.approx((0.5**c, 0.99**c))


def test_phases_and_their_intervals():
    def intervals(preset, **over):
        return {phase.name: phase.every for phase in built(tiny(preset, **over), spec()).phases()}

    assert intervals("dcgan") == {"discriminator": 1, "generator": 1}
    assert intervals("stylegan") == {"discriminator": 1, "generator": 1}  # its R1 runs at every step
    assert intervals("stylegan2") == {"discriminator": 1, "r1": 16, "generator": 1, "path_length": 4}
    assert intervals("pggan", critic_steps=5) == {"discriminator": 1, "generator": 5}


def test_lazy_r1_weighs_its_interval():
    architecture = built(tiny("stylegan2", regularisation={"r1": 10.0, "r1_every": 16}), spec())
    images = torch.randn(4, 1, 16, 16)
    batch = Batch(images, torch.tensor([0, 1, 0, 1]), Stage(2), torch.Generator())
    loss, curves = architecture.r1_loss(batch)
    assert float(loss.detach()) == pytest.approx(10.0 / 2 * 16 * float(curves["penalty.r1"].detach()), rel=1e-5)


def test_path_length_mean_follows_with_decay():
    architecture = built(tiny("stylegan2"), spec())
    batch = Batch(torch.zeros(4, 1, 16, 16), torch.tensor([0, 1, 0, 1]), Stage(2), torch.Generator().manual_seed(0))
    loss, curves = architecture.path_length_loss(batch)
    length = float(curves["path_length"].detach())
    assert float(architecture.path_length_mean) == pytest.approx(0.01 * length, rel=1e-5)
    assert float(loss.detach()) == pytest.approx(2.0 * 4 * float(curves["penalty.path_length"].detach()), rel=1e-5)


def test_average():
    config = tiny("dcgan")
    newest, mean = built(config, spec(), 0).generator, built(config, spec(), 1).generator
    expected = [0.9 * a + 0.1 * b for a, b in zip(mean.parameters(), newest.parameters(), strict=True)]
    newest.norms[0].running_mean += 1.0
    newest.norms[0].running_var += 2.0
    newest.norms[0].num_batches_tracked += 7
    average(mean, newest, 0.9)
    for value, wanted in zip(mean.parameters(), expected, strict=True):
        torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(mean.norms[0].running_mean, torch.full_like(mean.norms[0].running_mean, 0.1))
    torch.testing.assert_close(mean.norms[0].running_var, torch.full_like(mean.norms[0].running_var, 1.2))
    assert int(mean.norms[0].num_batches_tracked) == 7
    average(mean, newest, 0.0)  # no average: the newest
    assert all(torch.equal(old, new) for old, new in zip(mean.buffers(), newest.buffers(), strict=True))
    ramped = tiny("stylegan2", ema=0.999, ema_ramp_up=0.05)
    assert ema_decay(ramped, 0) == pytest.approx(0.0, abs=1e-6)
    assert ema_decay(ramped, 1000) == pytest.approx(0.5 ** (4 / 50))
    assert ema_decay(ramped, 10**9) == 0.999
    assert ema_decay(tiny("dcgan", ema=0.0), 10) == 0.0


def test_epochs_show_every_image_once(data):
    images = ResidentImages(data, 5, torch.device("cpu"))
    whole, _ = images.draw(0, len(data))
    assert sorted(float(x.sum()) for x in whole) == pytest.approx(
        sorted(float(x.sum()) for x in data.tensor()), abs=1e-2
    )
    later, labels = images.draw(20, 12)  # over the edge of an epoch
    again = ResidentImages(data, 5, torch.device("cpu"))
    torch.testing.assert_close(torch.cat([again.draw(20, 5)[0], again.draw(25, 7)[0]]), later)
    assert sorted(set(labels.tolist())) == [0, 1]
    by_content = {round(float(x.sum()), 2): int(y) for x, y in zip(data.tensor(), data.labels, strict=True)}
    assert [by_content[round(float(x.sum()), 2)] for x in later] == labels.tolist()
