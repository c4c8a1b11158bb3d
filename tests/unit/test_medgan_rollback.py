"""What does not go well: back to the last good state with halved rates, at most twice, exact all the same."""

import logging
import pickle

import pytest
import torch
from safetensors.torch import load_file

from medgan.architecture import Architecture
from medgan.checkpoint import drop_checkpoints, latest_checkpoint, save_checkpoint
from medgan.optimise import SkipCounts
from medgan.train import GOOD_POINTS, Trainer, train
from tests.unit.medgan_toys import ignore, scans, tiny

pytestmark = pytest.mark.thorough

STEPS = 40  # of 4 images: a good state every second one


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return scans(tmp_path_factory.mktemp("data"))


class KilledError(Exception):
    pass


@pytest.fixture
def poison(monkeypatch):
    """Makes real images non-finite at the steps that ``poison.where(trainer)`` names."""

    class Poison:
        @staticmethod
        def where(trainer):
            return False

    step = Trainer.step

    def poisoned(self):
        draw = self.images.draw
        if Poison.where(self):
            self.images.draw = lambda place, count: (draw(place, count)[0] * float("nan"), draw(place, count)[1])
        step(self)
        self.images.draw = draw

    monkeypatch.setattr(Trainer, "step", poisoned)
    return Poison


def config(preset="dcgan", **over):
    return tiny(preset, **{"images": 4 * STEPS, "skip_limit": 2, "checkpoint_seconds": 0.0, **over})


def fit(settings, data, folder, kill=()):
    """Trains, killed whenever as many steps as ``kill`` says have been made in this process, then resumed."""
    for path in (folder / "scratch", folder / "out"):
        path.mkdir(parents=True, exist_ok=True)
    for limit in (*kill, None):
        made = []

        def progress(done, total, made=made, limit=limit):
            made.append(done)
            if limit is not None and len(made) >= limit:
                raise KilledError

        try:
            logged = []
            return train(
                settings,
                data,
                3,
                folder / "scratch",
                folder / "out",
                device="cpu",
                log=lambda values, at, logged=logged: logged.append((at, dict(values))),
                progress=progress,
            ), logged
        except KilledError:
            pass
    raise AssertionError


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("preset", ["dcgan", "wgan", "stylegan2_ada"])
def test_back_to_the_good_state_and_on_with_half_the_rates(preset, data, tmp_path, poison, caplog):
    poison.where = lambda trainer: trainer.now.rollbacks == 0 and trainer.now.step >= 11
    settings = config(preset)
    with caplog.at_level(logging.WARNING):
        result, logged = fit(settings, data, tmp_path)
    assert result.status == "done"
    assert result.images_seen == 4 * STEPS
    assert "non-finite" in caplog.text
    failed = result.curves["rollback"][0][0]
    assert [count for _, count in result.curves["rollback"]] == [1.0]
    assert (failed, {"rollback": 1.0}) in logged
    assert result.curves["skipped"][-1][1] >= 2.0  # what was skipped stays counted
    places = [images for images, _ in result.curves["loss.discriminator"]]
    assert places == sorted(set(places))  # the abandoned course's points are gone

    # The same by hand: 10 good steps, half the rates, 30 more.
    trainer = Trainer(settings, data, 3, torch.device("cpu"), ignore)
    poison.where = lambda trainer: False
    for step in range(STEPS):
        if step == 10:
            for optimiser in trainer.optimisers.values():
                optimiser.param_groups[0]["lr"] *= 0.5
        trainer.step()
    weights = load_file(tmp_path / "out/generator.safetensors")
    mine = trainer.averaged.state_dict()
    assert [name for name in weights if not torch.equal(weights[name], mine[name])] == []


@pytest.mark.parametrize(
    ("preset", "kill"),
    [*(("dcgan", kill) for kill in [(12,), (13,), (3, 8, 4, 6)]), ("stylegan2_ada", (12, 3))],
)
def test_resumed_across_a_rollback_to_the_bit(preset, kill, data, tmp_path, poison):
    poison.where = lambda trainer: trainer.now.rollbacks == 0 and trainer.now.step >= 11
    straight, _ = fit(config(preset), data, tmp_path / "straight")
    resumed, _ = fit(config(preset), data, tmp_path / "cut", kill)
    assert straight.curves["rollback"][0][1] == 1.0
    assert resumed.curves == straight.curves
    assert contents(tmp_path / "cut/out") == contents(tmp_path / "straight/out")


def test_what_was_grown_since_is_forgotten_wholly(data, tmp_path, poison, monkeypatch):
    """Back from a level that the good state had not reached: its layers' moments must go, too."""
    monkeypatch.setattr("medgan.train.GOOD_POINTS", 4)
    settings = config("pggan", architecture={"growth_share": 0.95, "growth_fade": 0.25})  # level 1 from step 15 on
    poison.where = lambda trainer: trainer.now.rollbacks == 0 and trainer.now.step >= 18
    straight, _ = fit(settings, data, tmp_path / "straight")
    assert straight.curves["rollback"] == [(80.0, 1.0)]
    fit(settings, data, tmp_path / "cut", kill=(21, 2))  # a fresh process has no moments to forget
    assert contents(tmp_path / "cut/out") == contents(tmp_path / "straight/out")
    poison.where = lambda trainer: False
    trainer = Trainer(settings, data, 3, torch.device("cpu"), ignore)
    for step in range(STEPS):
        if step == 10:
            for optimiser in trainer.optimisers.values():
                optimiser.param_groups[0]["lr"] *= 0.5
        trainer.step()
    weights, mine = load_file(tmp_path / "straight/out/generator.safetensors"), trainer.averaged.state_dict()
    assert [name for name in weights if not torch.equal(weights[name], mine[name])] == []


def test_twice_at_most_then_it_has_diverged(data, tmp_path, poison):
    poison.where = lambda trainer: trainer.now.step >= 11
    result, _ = fit(config(), data, tmp_path / "a")
    assert result.status == "diverged"
    assert "non-finite" in result.reason
    assert "gone back 2 times" in result.reason
    assert [count for _, count in result.curves["rollback"]] == [1.0, 2.0]
    weights = load_file(tmp_path / "a/out/generator.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    again, _ = fit(config(), data, tmp_path / "b", kill=(12, 3, 2))
    assert again.curves == result.curves
    assert contents(tmp_path / "a/out") == contents(tmp_path / "b/out")


def counted(text):
    """Counts after steps of which those with an x were skipped."""
    counts = SkipCounts(torch.device("cpu"))
    for step in text:
        counts.note(torch.tensor(float(step == "x")))
    return counts


def test_runs_and_shares_of_skips_by_hand():
    for steps, limit, last, found in [
        ("xx..", 2, False, "2 consecutive steps"),  # the run is over, and is seen all the same
        ("x.x.", 2, False, ""),  # half is not more than half
        ("x.xx.x", 3, False, "4 of the last 6 steps"),
        ("x.x", 4, False, ""),  # too few for a share
        ("x.x", 4, True, "2 of all 3 steps"),
    ]:
        assert counted(steps).diagnosis(limit, last) == found, steps
    counts = counted("..xx.x")
    assert not counts.looked(4)
    assert counts.counts.tolist() == [1, 1, 0, 0, 3, 6]  # the run that may go on stays
    assert counted("xx.").looked(4)


@pytest.mark.parametrize(("every", "limit", "found"), [(2, 5, "5 consecutive"), (16, 50, "3 of all 3")])
def test_a_lazy_phase_that_always_fails_is_seen_between_good_steps(every, limit, found, data, tmp_path, monkeypatch):
    r1 = Architecture.r1_loss

    def broken(self, batch):
        loss, curves = r1(self, batch)
        return loss * float("nan"), curves

    monkeypatch.setattr(Architecture, "r1_loss", broken)
    penalty = {"regularisation": {"r1": 1.0, "r1_every": every}, "architecture": {"discriminator_norm": "none"}}
    settings = config(skip_limit=limit, rollbacks=1, **penalty)
    result, _ = fit(settings, data, tmp_path)
    assert result.status == "diverged"
    assert f"{found} steps of the phase 'r1'" in result.reason
    assert [count for _, count in result.curves["rollback"]] == [1.0]


@pytest.mark.parametrize("points", [4, 200])  # looks after every 10 steps, and after every one
def test_three_steps_of_four_skipped_are_seen(points, data, tmp_path, poison, monkeypatch):
    monkeypatch.setattr("medgan.train.CURVE_POINTS", points)
    poison.where = lambda trainer: trainer.now.step % 4 > 0
    result, _ = fit(config(skip_limit=8, rollbacks=0), data, tmp_path / "most")
    assert result.status == "diverged"
    assert "of the phase 'discriminator'" in result.reason
    assert result.images_seen <= 4 * 10
    poison.where = lambda trainer: trainer.now.step % 4 == 0
    assert fit(config(skip_limit=8, rollbacks=0), data, tmp_path / "few")[0].status == "done"


def test_a_run_of_skips_that_is_over_at_the_look_is_seen(data, tmp_path, poison, monkeypatch):
    monkeypatch.setattr("medgan.train.CURVE_POINTS", 4)
    poison.where = lambda trainer: 12 <= trainer.now.step < 15
    result, _ = fit(config(skip_limit=3, rollbacks=0), data, tmp_path)
    assert result.status == "diverged"
    assert "3 consecutive steps" in result.reason


def test_none_asked_for_none_made(data, tmp_path, poison):
    poison.where = lambda trainer: trainer.now.step >= 11
    result, _ = fit(config(rollbacks=0), data, tmp_path)
    assert result.status == "diverged"
    assert "rollback" not in result.curves
    assert "gone back" not in result.reason


def test_before_any_good_state_it_starts_anew(data, tmp_path, poison):
    poison.where = lambda trainer: trainer.now.rollbacks == 0
    settings = config()
    result, _ = fit(settings, data, tmp_path)
    assert result.status == "done"
    poison.where = lambda trainer: False
    trainer = Trainer(settings, data, 3, torch.device("cpu"), ignore)
    for optimiser in trainer.optimisers.values():
        optimiser.param_groups[0]["lr"] *= 0.5
    for _ in range(STEPS):
        trainer.step()
    weights, mine = load_file(tmp_path / "out/generator.safetensors"), trainer.averaged.state_dict()
    assert all(torch.equal(weights[name], mine[name]) for name in weights)


def test_a_damaged_good_state_is_named_and_the_one_before_it_used(data, tmp_path, poison, caplog):
    def where(trainer):
        if trainer.now.rollbacks == 0 and trainer.now.step == 11:
            newest = sorted((tmp_path / "scratch").glob("good-*"))[-1]
            assert newest.name == "good-000000010"
            (newest / "tensors.safetensors").write_bytes(b"no")
        return trainer.now.rollbacks == 0 and trainer.now.step >= 11

    poison.where = where
    with caplog.at_level(logging.WARNING):
        result, _ = fit(config(), data, tmp_path)
    assert result.status == "done"
    assert "good-000000010: tensors.safetensors is not what was written; it is damaged" in caplog.text
    assert "going back to 32 images" in caplog.text


def test_a_run_of_skips_is_no_good_state(data, tmp_path, poison):
    """Skips at steps 9 and 10, of which step 10 would be a point to keep: the limit is not reached there."""
    poison.where = lambda trainer: trainer.now.step == 9
    fit(config(), data, tmp_path)
    trainer = Trainer(config(), data, 3, torch.device("cpu"), ignore)
    (tmp_path / "alone").mkdir()
    for _ in range(10):
        trainer.step()
    assert trainer.look(tmp_path / "alone", STEPS) == ""
    assert list((tmp_path / "alone").glob("good-*")) == []
    assert trainer.now.good == 0
    trainer.step()
    trainer.look(tmp_path / "alone", STEPS)
    assert [path.name for path in (tmp_path / "alone").glob("good-*")] == ["good-000000011"]


def test_good_states_are_kept_at_steps_that_the_clock_has_no_part_in(data, tmp_path, monkeypatch):
    kept = []

    def save(scratch, step, tensors, state, kind="step"):
        if kind == "good":
            kept.append(step)

    monkeypatch.setattr("medgan.train.save_checkpoint", save)
    fit(config(), data, tmp_path)
    assert kept == [2 * point for point in range(1, GOOD_POINTS)]


def test_checkpoints_of_an_abandoned_course_are_dropped(tmp_path):
    for step in (4, 6, 8):
        for kind in ("step", "good"):
            save_checkpoint(tmp_path, step, {"x": torch.zeros(1)}, {"step": step, "kind": kind}, kind)
    assert latest_checkpoint(tmp_path, "good", last=7)[1] == {"step": 6, "kind": "good"}
    drop_checkpoints(tmp_path, after=6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good-000000006", "step-000000006"]
    assert latest_checkpoint(tmp_path)[1] == {"step": 6, "kind": "step"}


def test_resuming_never_unpickles(data, tmp_path, monkeypatch, poison):
    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    for module, name in ((pickle, "loads"), (pickle, "load"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    poison.where = lambda trainer: trainer.now.rollbacks == 0 and trainer.now.step >= 11
    result, _ = fit(config(), data, tmp_path, kill=(5, 9))
    assert result.status == "done"
