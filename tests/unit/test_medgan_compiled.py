"""Compiled passes give what eager ones give, and whatever the compiler does wrong leaves no trace but a warning."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import medgan
from medgan import compiled
from medgan.contract import DrawnNoise
from medgan.sizes import Stage
from medgan.train import Trainer, train
from tests.unit.medgan_toys import PRESETS, built, ignore, scans, spec, tiny

CPU = torch.device("cpu")
COMPILER = torch.compile
GROWN = {preset: {"architecture": {"growth_share": 0.0}} for preset in ("pggan", "pggan_lsgan", "stylegan")}
LAZY = {"r1_every": 2, "path_length_every": 2}
BOTH = {"generator": ["default"], "discriminator": ["default"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return scans(tmp_path_factory.mktemp("data"))


def configured(preset, **over):
    return tiny(preset, **{**GROWN.get(preset, {}), **over})


def stepped(config, data, steps=4):
    """A trainer some steps on."""
    trainer = Trainer(config, data, 0, CPU, ignore)
    for _ in range(steps):
        trainer.step()
    return trainer


def differing(one, other):
    """Names of tensors of the whole state (weights, moments, averages, random stream) that are not the same bits."""
    first, second = one.state()[0], other.state()[0]
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def expected(preset):
    """How passes run where the compiler manages: dropout and multiplicative noise are drawn within the pass."""
    drawing = preset in ("gan", "cgan", "pggan_lsgan")
    return {**BOTH, "discriminator": ["eager (draws by itself)"]} if drawing else BOTH


def pretend(monkeypatch, compiler):
    monkeypatch.setattr(torch, "compile", compiler)


@pytest.mark.parametrize(("preset", "precision"), [*((preset, "float32") for preset in PRESETS), ("dcgan", "bfloat16")])
def test_a_rehearsal_leaves_no_trace(preset, precision, data, monkeypatch):
    """With a compiler that changes nothing, a training has the eager one's bits: running statistics, random stream."""
    eager = stepped(configured(preset, precision=precision), data)
    pretend(monkeypatch, lambda function, **options: function)
    monkeypatch.setattr(compiled, "one_layout", lambda x: x)  # another layout, other roundings
    trainer = stepped(configured(preset, precision=precision, compile="default"), data)
    assert differing(eager, trainer) == []
    assert trainer.now.passes == expected(preset)
    assert eager.now.passes == {name: ["eager (compile off)"] for name in BOTH}


@pytest.mark.parametrize("preset", ["dcgan", "pggan", "pggan_lsgan", "stylegan2"])
def test_each_network_is_compiled_with_fixed_weights_and_with_trained_ones(preset, data, monkeypatch):
    made = []
    pretend(monkeypatch, lambda function, **options: made.append(options) or function)
    stepped(configured(preset, compile="default"), data, steps=5)  # with R1 and path length in between
    assert len(made) == 2 * sum(hows == ["default"] for hows in expected(preset).values())
    assert all(options == {"fullgraph": True, "dynamic": False, "mode": "default"} for options in made)


@pytest.mark.parametrize("preset", ["dcgan", "stylegan2"])
@pytest.mark.parametrize("when", ["at once", "at the first run", "in its backward pass", "in a later step"])
def test_a_failing_compiler_changes_no_bit(preset, when, data, monkeypatch, caplog):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise NotImplementedError("no backward\npass")

    def failing(function, **options):
        calls = 0
        if when == "at once":
            raise NotImplementedError("no compiler\nhere")

        def run(inputs, noise):
            nonlocal calls
            calls += 1
            if when == "at the first run" or (when == "in a later step" and calls > 2):
                raise NotImplementedError("does not\nrun")
            y = function(inputs, noise)  # running statistics have moved when the backward pass fails
            return Broken.apply(y) if when == "in its backward pass" else y

        return run

    eager = stepped(configured(preset), data)
    pretend(monkeypatch, failing)
    with caplog.at_level(logging.WARNING, "medgan.compiled"):
        trainer = stepped(configured(preset, compile="default"), data)
    assert differing(eager, trainer) == []
    failed = ["eager (NotImplementedError)"]
    generator = trainer.now.passes["generator"]
    assert trainer.now.passes["discriminator"][-1:] == generator[-1:] == failed
    if when in ("at once", "at the first run"):
        assert trainer.now.passes == {"generator": failed, "discriminator": failed}
    else:  # images for the discriminator need no backward pass
        assert generator == ["default", *failed]
    assert len(caplog.messages) == 2  # one a network, not one a step
    assert not any("\n" in message for message in caplog.messages)


def test_what_fades_runs_eager(data, monkeypatch):
    pretend(monkeypatch, lambda function, **options: function)
    trainer = stepped(tiny("pggan", compile="default"), data, steps=8)  # 8 steps are all of it
    assert trainer.now.passes["generator"] == ["default", "eager (fading)"]
    transition = {"transition_start": 8, "transition_end": 24}
    trainer = stepped(tiny("dcgan", compile="default", conditioning=transition), data, steps=8)
    assert trainer.now.passes["discriminator"] == ["default", "eager (fading)"]
    eager = stepped(tiny("dcgan", conditioning=transition), data, steps=8)
    assert differing(eager, trainer) == []


def test_several_processes_run_eager(monkeypatch):
    pretend(monkeypatch, lambda function, **options: function)
    network = built(tiny("dcgan"), spec()).discriminator
    one = compiled.Pass(network, "score", "default")
    monkeypatch.setattr(compiled.ranks, "count", lambda: 2)
    assert one.obstacle(Stage(2), None) == "several processes"


def test_cuda_graphs_are_none_of_a_cpu(data, monkeypatch):
    modes = []
    pretend(monkeypatch, lambda function, **options: modes.append(options["mode"]) or function)
    assert stepped(configured("dcgan", compile="reduce-overhead"), data, 1).now.passes == BOTH
    assert set(modes) == {"default"}
    with pytest.raises(ValueError, match="compile: unknown 'max'"):
        tiny("dcgan", compile="max")


def test_real_and_generated_images_have_one_layout():
    for channels in (1, 3):
        real = torch.randn(4, channels, 8, 8)
        fake = torch.randn(4, 8, 8, channels).permute(0, 3, 1, 2)
        one, other = compiled.one_layout(real), compiled.one_layout(fake)
        assert one.stride() == other.stride()
        assert one.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(one, real)
        assert torch.equal(other, fake)


def test_noise_drawn_ahead_is_what_a_pass_would_draw():
    for preset in ("stylegan", "stylegan2"):
        for options in ({}, {"noise_from": 8, "noise_to": 8}, {"noise": "fixed"}, {"noise": "none"}):
            generator = built(tiny(preset, architecture=options), spec()).generator
            ws = torch.randn(4, 10, 8)
            found = []
            for ahead in (False, True):
                rng = torch.Generator().manual_seed(0)

                def noise(layer, height, width, rng=rng):
                    return torch.randn(4, 1, height, width, generator=rng)

                source = generator.draw_noise(Stage(2), noise) if ahead else noise
                assert isinstance(source, DrawnNoise) is ahead
                found.append((generator.synthesis(ws, Stage(2), source), rng.get_state()))
            assert torch.equal(found[0][0], found[1][0])
            assert torch.equal(found[0][1], found[1][1])


def test_how_it_ran_is_in_the_result_and_survives_an_interruption(data, tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    def kill(done, images):
        if done >= 16:
            raise KilledError

    def run(name, progress=ignore):
        config = tiny("dcgan", compile="default", checkpoint_seconds=0.0)
        train(config, data, 3, tmp_path / name, tmp_path / f"{name}-out", device="cpu", log=ignore, progress=progress)
        return json.loads((tmp_path / f"{name}-out" / "generator.json").read_text())

    for folder in ("straight", "cut", "straight-out", "cut-out"):
        (tmp_path / folder).mkdir()
    pretend(monkeypatch, lambda function, **options: function)
    assert run("straight")["passes"] == BOTH
    with pytest.raises(KilledError):
        run("cut", kill)

    def broken(function, **options):
        raise OSError("no compiler on this machine")

    pretend(monkeypatch, broken)  # where it goes on
    assert run("cut")["passes"] == {name: ["default", "eager (OSError)"] for name in BOTH}
    assert medgan.load(tmp_path / "cut-out").config.compile == "default"


# -- the compiler itself -----------------------------------------------------------------------------------------------


def gradients(trainer, position):
    """Losses and gradients of every phase on one batch; weights stay."""
    found = {}
    architecture, images = trainer.architecture, trainer.images.draw(position, 4)
    stage = architecture.stage_at(0)
    batch = medgan.contract.Batch(architecture.reals(images[0], stage), images[1], stage, trainer.rng)
    for phase in trainer.phases:
        network = getattr(architecture, phase.network).requires_grad_(True)
        loss, _ = phase.loss(batch)
        loss.backward()
        found[phase.name] = (loss.detach(), torch.cat([p.grad.flatten() for p in network.parameters()
                                                       if p.grad is not None]))  # fmt: skip
        network.zero_grad(set_to_none=True)
        network.requires_grad_(False)
    return found


def agree(preset, data, steps=3):
    """One and the same batches eager and compiled: losses, gradients, running statistics, random stream."""
    eager = Trainer(configured(preset), data, 0, CPU, ignore)
    other = Trainer(configured(preset, compile="default"), data, 0, CPU, ignore)
    for step in range(steps):
        one, two = gradients(eager, 4 * step), gradients(other, 4 * step)
        for name, (loss, gradient) in one.items():
            torch.testing.assert_close(two[name][0], loss, rtol=1e-5, atol=1e-6)
            assert float((two[name][1] - gradient).norm()) < 1e-4 * float(gradient.norm()), name
    assert torch.equal(eager.rng.get_state(), other.rng.get_state())
    for (name, buffer), mine in zip(eager.architecture.named_buffers(), other.architecture.buffers(), strict=True):
        torch.testing.assert_close(mine, buffer, rtol=1e-5, atol=1e-6, msg=name)
    return other


@pytest.mark.thorough
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_traced(preset, data, monkeypatch):
    """Dynamo and AOTAutograd on their own, which take seconds: the whole of each pass, and one graph for each form."""
    from torch._dynamo.utils import counters

    def traced(function, **options):
        return COMPILER(function, fullgraph=True, dynamic=False, backend="aot_eager")

    pretend(monkeypatch, traced)
    counters.clear()
    trainer = agree(preset, data, steps=4)
    assert trainer.now.passes == expected(preset)
    assert counters["stats"]["unique_graphs"] == 2 * sum(hows == ["default"] for hows in expected(preset).values())


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["dcgan", "pggan", "stylegan", "stylegan2"])
def test_compiled_is_eager_in_other_words(preset, data):
    from torch._dynamo.utils import counters

    counters.clear()
    assert agree(preset, data).now.passes == BOTH
    assert counters["stats"]["unique_graphs"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["dcgan", "stylegan2"])
def test_compiled_and_resumed_equals_uninterrupted(preset, data, tmp_path):
    regularisation = LAZY if preset == "stylegan2" else {}
    config = tiny(preset, compile="default", checkpoint_seconds=0.0, regularisation=regularisation)

    class KilledError(Exception):
        pass

    def kill(done, images):
        if done >= 12:
            raise KilledError

    for name, progress in (("straight", ignore), ("cut", kill), ("cut", ignore)):
        scratch, output = tmp_path / name, tmp_path / f"{name}-out"
        scratch.mkdir(exist_ok=True)
        output.mkdir(exist_ok=True)
        try:
            train(config, data, 3, scratch, output, device="cpu", log=ignore, progress=progress)
        except KilledError:
            assert progress is kill
    one, other = (load_file(tmp_path / f"{name}-out/state/tensors.safetensors") for name in ("straight", "cut"))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    card = (tmp_path / "straight-out/generator.json").read_bytes()
    assert card == (tmp_path / "cut-out/generator.json").read_bytes()
    assert json.loads(card)["passes"] == BOTH


WITHOUT_COMPILER = """
import logging, sys
from pathlib import Path
import torch
from medgan.train import train
from tests.unit.medgan_toys import ignore, scans, tiny
logging.basicConfig(format="%(message)s")
root = Path(sys.argv[1])
data = scans(root / "data")
for mode in ("off", "default"):
    scratch, output = root / f"scratch-{mode}", root / mode
    scratch.mkdir(), output.mkdir()
    train(tiny("dcgan", compile=mode), data, 3, scratch, output, device="cpu", log=ignore, progress=ignore)
"""


@pytest.mark.slow
def test_a_machine_without_a_compiler_trains_all_the_same(tmp_path):
    hidden = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    environment = {**os.environ, **hidden, "PYTHONPATH": str(Path(medgan.__file__).parents[1])}
    command = [sys.executable, "-c", WITHOUT_COMPILER, str(tmp_path)]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    assert child.stderr.count("compile: ") == 2, child.stderr[-2000:]
    one, other = (load_file(tmp_path / mode / "generator.safetensors") for mode in ("off", "default"))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    ran = json.loads((tmp_path / "default" / "generator.json").read_text())["passes"]
    assert all(how.startswith("eager (") for hows in ran.values() for how in hows), ran
