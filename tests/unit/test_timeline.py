"""Seconds of training at each snapshot, over a kill and without what snapshots themselves take."""

from __future__ import annotations

import json

import pytest

from flows import timeline as module
from flows.timeline import FILE, Timeline


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


def test_snapshots_take_no_training_time(clock, tmp_path):
    timeline = Timeline(tmp_path)

    def measure(images_seen, generator):
        clock.now += 50
        return {"kid": float(images_seen)}

    stamped = timeline.stamped(measure)
    clock.now += 10
    assert stamped(100, None) == {"kid": 100.0}
    clock.now += 20
    stamped(200, None)
    assert timeline.points == [(100.0, 10.0), (200.0, 30.0)]


def test_a_killed_training_goes_on_from_its_last_snapshot(clock, tmp_path):
    stamped = Timeline(tmp_path).stamped(lambda images, generator: {})
    clock.now += 10
    stamped(100, None)
    clock.now += 5000  # killed, and started again in another process
    again = Timeline(tmp_path)
    clock.now += 7
    again.stamped(lambda images, generator: {})(200, None)
    assert again.points == [(100.0, 10.0), (200.0, 17.0)]
    assert json.loads((tmp_path / FILE).read_text()) == [[100.0, 10.0], [200.0, 17.0]]


def test_a_snapshot_that_is_made_again_counts_once(clock, tmp_path):
    stamped = Timeline(tmp_path).stamped(lambda images, generator: {})
    for images in (100, 200):
        clock.now += 10
        stamped(images, None)
    again = Timeline(tmp_path)  # from a checkpoint before the second snapshot
    for images in (200, 300):
        clock.now += 9
        again.stamped(lambda images, generator: {})(images, None)
    assert again.points == [(100.0, 10.0), (200.0, 19.0), (300.0, 28.0)]


def test_a_rollback_abandons_later_points(clock, tmp_path):
    timeline = Timeline(tmp_path)
    stamped = timeline.stamped(lambda images, generator: {})
    for images in (100, 200, 150):
        clock.now += 10
        stamped(images, None)
    assert timeline.points == [(100.0, 10.0), (150.0, 30.0)]
