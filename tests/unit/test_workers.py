"""A broken file may crash, hang or fill its worker: only that file is lost."""

from __future__ import annotations

import time

import pytest

from pipeline import workers as workers_module
from pipeline.workers import Bounds, Lost, Workers
from tests.unit.misbehaviour import count_calls, misbehave


def run(items, seconds=20.0, memory=2**30, count=2):
    with Workers(count, Bounds(seconds, memory)) as pool:
        return [result for _, result in pool.map(misbehave, items)]


@pytest.mark.parametrize("fault", ["crash", "abort", "exit"])
def test_a_crash_costs_one_file(fault):
    items = list(range(40))
    items[17] = fault
    results = run(items)
    assert isinstance(results[17], Lost)
    assert "crashed" in results[17].reason
    del items[17], results[17]
    assert results == [f"{item} done" for item in items]


def test_a_hang_costs_one_file_and_the_time_it_is_given():
    started = time.monotonic()
    results = run([0, "hang", 2, "hang", 4], seconds=1.5)
    assert [isinstance(one, Lost) for one in results] == [False, True, False, True, False]
    assert results[1] == Lost("took longer than 1.5 s")
    assert results[4] == "4 done"
    assert time.monotonic() - started < 30


def test_memory_beyond_the_bound_is_refused():
    assert run(["memory", 1]) == ["refused", "1 done"]


def test_what_the_function_raises_ends_the_whole():
    with pytest.raises(OSError, match="Input/output error"):
        run(["raise", 1])


def test_results_come_in_order_and_work_is_a_few_chunks_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(workers_module, "CHUNK", 4)
    with Workers(2, Bounds()) as pool:
        stream = pool.map(count_calls, ((tmp_path, number) for number in range(400)))
        first = [next(stream)[1] for _ in range(4)]
        time.sleep(0.5)
        assert first == [0, 1, 2, 3]
        ahead = len(list(tmp_path.iterdir()))
        assert ahead <= 4 * (workers_module.AHEAD * 2 + 1)
        assert [result for _, result in stream] == list(range(4, 400))


def test_nothing_to_do():
    assert run([]) == []
