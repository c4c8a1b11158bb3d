"""Who gets which GPU: a GAN one to itself, small trainings a share."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from flows import devices
from flows.devices import SHARES, training_device, workers
from flows.progress import Stopped, let_stages_run, progress_bar, stop_stages


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "POLL_SECONDS", 0.01)


def test_small_trainings_spread_over_the_gpus_and_fill_them(two_gpus):
    with ExitStack() as held:
        got = [held.enter_context(training_device("auto", small=True)) for _ in range(workers())]
        assert got == ["cuda:0", "cuda:1"] * SHARES
    with ExitStack() as held:
        assert [held.enter_context(training_device("cuda:1", small=True)) for _ in range(2)] == ["cuda:1", "cuda:1"]


def test_a_gan_waits_for_a_whole_gpu_and_has_it_alone(two_gpus):
    order = []

    def train_gan() -> None:
        with training_device("cuda:0") as device:
            order.append(device)

    with ExitStack() as held:
        held.enter_context(training_device("auto", small=True))  # a share of cuda:0
        gan = threading.Thread(target=train_gan)
        gan.start()
        gan.join(0.2)
        assert gan.is_alive()
        order.append("given back")
    gan.join(10)
    assert order == ["given back", "cuda:0"]
    with training_device("auto") as first, training_device("auto") as second:
        assert (first, second) == ("cuda:0", "cuda:1")
        other = threading.Thread(target=lambda: order.append(_small()), daemon=True)
        other.start()
        other.join(0.2)
        assert other.is_alive()
        waiting = len(order)
    other.join(10)
    assert order[waiting:] in (["cuda:0"], ["cuda:1"])  # both were given back, one after the other: whichever it met


def _small() -> str:
    with training_device("auto", small=True) as device:
        return device


def test_the_cpu_is_not_locked(two_gpus):
    with training_device("cpu") as first, training_device("cpu") as second:
        assert first == second == "cpu"


def test_a_training_that_fails_gives_its_share_back(two_gpus):
    with pytest.raises(RuntimeError), training_device("cuda:0"):
        raise RuntimeError
    with training_device("cuda:0") as device:
        assert device == "cuda:0"


def test_who_waits_for_a_gpu_can_be_interrupted(two_gpus):
    with training_device("cuda:0"):
        stop_stages()
        try:
            with pytest.raises(Stopped), training_device("cuda:0"):
                pass
        finally:
            let_stages_run()


def test_a_stage_is_stopped_where_it_tells_its_progress():
    with progress_bar("test", "steps") as progress:
        progress(1, 3)
        stop_stages()
        try:
            with pytest.raises(Stopped):
                progress(2, 3)
        finally:
            let_stages_run()
        progress(3, 3)
