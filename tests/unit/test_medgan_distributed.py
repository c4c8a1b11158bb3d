"""Two processes on the CPU train what one does; a killed one ends both, and they go on to the bit."""

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

import medgan
from flows.exports.gate import find_training_data
from medgan import SyntheticDataset, ranks, registry
from medgan.checkpoint import agreed_checkpoint
from medgan.distributed import main
from medgan.sample import trained_on
from medgan.seeds import seeded
from pipeline.records import MedaugError
from tests.unit.medgan_toys import scans, tiny

# A large epsilon makes Adam's steps smooth functions of the gradients. With 1e-8 a gradient that is zero but for
# rounding moves its weight by a whole learning rate, up or down.
SMOOTH = {"epsilon": 1e-3}
CASES = {
    "stylegan2_ada": {
        "batch": 16,
        "architecture": {"stddev_group": 4},
        "regularisation": {"r1_every": 2, "path_length_every": 2, "path_length_decay": 0.3},
        "augmentation": {"every": 2, "ramp": 100, "target": -0.9, "transforms": ["translate", "rotate", "brightness"]},
    },
    "pggan_lsgan": {"batch": 8, "architecture": {"growth_share": 0.9}},
    "wgan_gp": {"batch": 4, "critic_steps": 2},
    "dcgan": {"batch": 16, "conditioning": {"generator": "batch_norm"}},
    "cgan": {"batch": 4, "conditioning": {"transition_start": 8, "transition_end": 24}},
}


def settings(preset, **over):
    over = CASES[preset] | over
    return tiny(preset, **{"images": 8 * over["batch"], "optimiser": SMOOTH, **over})


def arguments(config, dataset, folder, name):
    """Of the command that trains with a configuration into ``folder/name``."""
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)), encoding="utf-8")
    files = [str(dataset), str(folder / "config.json"), "--out", str(folder / name)]
    return [*files, "--seed", "3", "--scratch", str(folder / f"{name}-scratch"), "--device", "cpu"]


def torchrun(given):
    """Starts two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.Popen([*launcher, "-m", "medgan.distributed", *given], stderr=subprocess.PIPE, text=True)


def pair(given, program=("-m", "medgan.distributed")):
    """Two processes as torchrun starts them, without the seconds that it takes itself."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
        variables = os.environ | place | {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *program, *given]
        started.append(subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=300)[1] for process in started]
    return [process.returncode for process in started], said


def state(folder):
    return load_file(folder / "state/tensors.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return scans(tmp_path_factory.mktemp("data"))


@pytest.mark.thorough
@pytest.mark.parametrize("preset", CASES)
def test_two_processes_train_what_one_does(preset, data, tmp_path):
    config = settings(preset)
    codes, said = pair(arguments(config, data.artifact.path, tmp_path, "two"))
    assert codes == [0, 0], said
    assert "done after" in said[0]
    assert said[1] == ""  # one of them talks
    assert main(arguments(config, data.artifact.path, tmp_path, "one")) == 0
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    start = registry.build(config, data.spec)
    start.initialise(seeded(3, "weights"))
    assert one.keys() == two.keys()
    for name, value in start.state_dict().items():
        name = f"architecture.{name}"
        moved, apart = (one[name] - value).float().norm(), (two[name] - one[name]).float().norm()
        assert float(apart) <= 0.01 * float(moved) + 1e-6, name  # a hundredth of what training did to it
    curves = [json.loads((tmp_path / name / "curves.json").read_text()) for name in ("one", "two")]
    assert curves[0].keys() == curves[1].keys()
    for name, points in curves[0].items():
        assert [y for _, y in curves[1][name]] == pytest.approx([y for _, y in points], rel=0.01, abs=1e-3), name
    if preset == "stylegan2_ada":
        assert max(p for _, p in curves[0]["augment.p"]) > 0.1
    assert not list((tmp_path / "two-scratch").glob("step-*"))
    labels = [0, 1, 1]
    images = [medgan.load(tmp_path / name, device="cpu").sample(labels) for name in ("one", "two")]
    torch.testing.assert_close(*images, atol=0.02, rtol=0.0)


POISONED = """
import os
from medgan.data import ResidentImages
from medgan.distributed import leave, main

draw, calls = ResidentImages.draw, 0

def poisoned(self, position, count):
    global calls
    calls += 1
    images, labels = draw(self, position, count)
    if os.environ["RANK"] == "1" and calls in (12, 13):
        images = images * float("nan")
    return images, labels

ResidentImages.draw = poisoned
leave(main())
"""


@pytest.mark.thorough
def test_what_goes_wrong_in_one_process_sends_both_back(data, tmp_path):
    """Non-finite images in the second process alone: both skip, go back to the same state, and end together."""
    config = settings("cgan", images=4 * 40, skip_limit=2)
    codes, said = pair(arguments(config, data.artifact.path, tmp_path, "out"), ("-c", POISONED))
    assert codes == [0, 0], said
    curves = json.loads((tmp_path / "out/curves.json").read_text())
    assert curves["rollback"] == [[52.0, 1.0]]  # the 12th and 13th step
    assert curves["skipped"][-1][1] == 2.0  # the critic's; the generator's step sees no real image
    assert all(bool(torch.isfinite(value).all()) for value in state(tmp_path / "out").values())


@pytest.mark.thorough
def test_one_killed_ends_both_and_they_go_on_to_the_bit(data, tmp_path):
    config = settings("cgan", images=4 * 200, checkpoint_seconds=0.0)
    codes, said = pair(arguments(config, data.artifact.path, tmp_path, "straight"))
    assert codes == [0, 0], said
    given = arguments(config, data.artifact.path, tmp_path, "cut")
    launcher = torchrun(given)
    while not list((tmp_path / "cut-scratch").glob("step-*")):
        assert launcher.poll() is None
        time.sleep(0.01)
    (second,) = (p for p in psutil.Process(launcher.pid).children(recursive=True) if p.environ().get("RANK") == "1")
    second.send_signal(signal.SIGKILL)
    _, said = launcher.communicate(timeout=120)
    assert launcher.returncode != 0
    lines = [line for line in said.splitlines() if re.search(r"process 0 of 2 (has lost|was told)", line)]
    assert len(lines) == 1, said
    assert f"goes on from {tmp_path / 'cut-scratch'}" in lines[0]
    assert not (tmp_path / "cut").exists()
    codes, said = pair(given)
    assert codes == [0, 0], said
    straight, cut = state(tmp_path / "straight"), state(tmp_path / "cut")
    assert [name for name in straight if not torch.equal(straight[name], cut[name])] == []


@pytest.mark.parametrize(
    ("preset", "over", "message"),
    [
        ("dcgan", {"batch": 5}, "multiple of 2"),
        ("pggan", {"batch": 12}, "stddev_group 4 does not divide.*multiple of 8"),
        ("stylegan2", {"batch": 6, "architecture": {"stddev_group": 0}}, "path_length_shrink 2.*multiple of 4"),
    ],
)
def test_what_cannot_be_shared_is_refused(preset, over, message, monkeypatch):
    config = tiny(preset, **over)
    ranks.check_shares(config)  # one process shares nothing
    monkeypatch.setattr(ranks, "count", lambda: 2)
    with pytest.raises(MedaugError, match=message):
        ranks.check_shares(config)


def test_the_shares_make_up_the_batch_and_keep_groups_whole(monkeypatch):
    whole = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    shares = []
    for rank in range(2):
        monkeypatch.setattr(ranks, "count", lambda: 2)
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        shares.append(ranks.normal((8, 3), torch.Generator().manual_seed(0)))
    assert torch.equal(torch.stack(shares, dim=1).flatten(0, 1), whole)
    groups = {frozenset(range(group, 16, 4)) for group in range(4)}  # of 4 images: every 4th of 16
    found = set()
    for rank in range(2):
        mine = range(16)[rank::2]
        found |= {frozenset(mine[place] for place in range(group, 8, 2)) for group in range(2)}
    assert found == groups


def test_its_generator_says_what_it_was_trained_on(data, tmp_path):
    """Beside its own dataset it may stand and leave the house; beside another split's it may not."""
    assert main(arguments(settings("cgan"), data.artifact.path, tmp_path, "out")) == 0
    made = SyntheticDataset(tmp_path / "out", [0, 1], real=data)
    assert made.trained_on == data.artifact.digest
    with pytest.raises(MedaugError, match="may have seen its test patients"):
        SyntheticDataset(tmp_path / "out", [0, 1], real=scans(tmp_path / "other", count=20))
    training = find_training_data("out", trained_on(tmp_path / "out"), None, data.artifact.path.parent.parent)
    assert training == data.artifact.path


def test_wrong_input_of_another_process_names_it(data, tmp_path, capsys, monkeypatch):
    given = arguments(settings("cgan"), data.artifact.path, tmp_path, "out")
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("medgan.distributed.rank_by_launcher", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(given) == 2
    assert "process 1 of 2: " + str(tmp_path / "config.json") in capsys.readouterr().err


def test_a_mistake_in_the_program_is_not_called_wrong_input(data, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("too many values to unpack")

    monkeypatch.setattr("medgan.train.average", broken)
    with pytest.raises(ValueError, match="too many values"):
        main(arguments(settings("cgan"), data.artifact.path, tmp_path, "out"))


def test_a_checkpoint_that_another_process_cannot_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "first", lambda: False)
    monkeypatch.setattr(ranks, "told", lambda number: 8)  # the first process has found step 8
    with pytest.raises(MedaugError, match=f"{tmp_path}/step-000000008: .*every process must see one folder"):
        agreed_checkpoint(tmp_path)


def test_wrong_input_is_one_line(data, tmp_path, capsys):
    given = arguments(settings("cgan"), data.artifact.path, tmp_path, "out")
    (tmp_path / "config.json").write_text('{"name": "x", "network": "mpl"}')
    assert main(given) == 2
    assert "config.json: not a GAN's configuration" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    assert main(given) == 2
    said = capsys.readouterr().err
    assert "exists; expected a folder to make" in said
    assert len(said.splitlines()) == 1
