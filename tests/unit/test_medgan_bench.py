"""The benchmark's table and JSON, and its counting, on the smallest case."""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from tests.benchmarks import bench_gan, paired, quality


def test_flops_by_hand():
    x, weight = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 3, 3, requires_grad=True)
    with bench_gan.CountedFlops() as counter:
        y = F.conv2d(x, weight, padding=1)
    forward = 2 * 2 * 5 * 8 * 8 * 3 * 9
    assert counter.total == forward
    with counter:
        y.sum().backward()
    assert counter.total == 2 * forward  # the weight's gradient; x wants none


def test_one_case_to_table_and_json(tmp_path, capsys, monkeypatch):
    def run(command, **kwargs):  # in this process: another one takes seconds to start
        printed = capsys.readouterr().out
        assert command[1:3] == ["-m", "tests.benchmarks.bench_gan"]
        assert bench_gan.main(command[3:]) == 0
        row = capsys.readouterr().out
        sys.stdout.write(printed)
        return subprocess.CompletedProcess(command, 0, row, "")

    monkeypatch.setattr(bench_gan.subprocess, "run", run)
    monkeypatch.setattr(bench_gan, "peak_rate", lambda device, precision: 1e12)
    file = tmp_path / "bench.json"
    arguments = ["dcgan:16:4", "--widths", "64", "8", "--seconds", "0.01", "--device", "cpu", "--json", str(file)]
    assert bench_gan.main([*arguments, "--variants", "fast", "plain"]) == 0
    report = json.loads(file.read_text())
    slow, fast = report["cases"]  # the divisor first
    assert (slow["variant"], fast["variant"]) == ("plain", "fast")
    assert slow["ratio_to_plain"] == slow["cpu_ratio_to_plain"] == 1.0
    assert fast["ratio_to_plain"] == pytest.approx(fast["images_per_second"] / slow["images_per_second"])
    for row in report["cases"]:
        assert set(row["phase_milliseconds"]) == {"discriminator", "generator", "rest"}
        assert row["skipped"] == 0
        assert row["images_per_second"] == pytest.approx(4 / row["step_milliseconds"] * 1e3)
        assert row["peak_bytes"] >= 0
    # The blocks of the image layers reach over the border: 9x9 of them where a convolution has 8x8 places.
    assert slow["flops_per_image"] < fast["flops_per_image"] < 1.05 * slow["flops_per_image"]
    assert fast["share_of_matmul"] == pytest.approx(fast["flops_per_second"] / 1e12)
    table = capsys.readouterr().out.splitlines()
    assert table[1].split()[:3] == ["preset", "size", "batch"]
    assert len(table) == 4


def test_what_is_no_case_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        bench_gan.main(["dcgann:16", "--seconds", "0.01", "--device", "cpu"])
    assert caught.value.code == 2
    assert "expected PRESET:SIZE[:BATCH]" in capsys.readouterr().err


def test_interleaved_rounds_divide_whole_steps():
    result = paired.compare("dcgan", 16, 4, rounds=2, widths=(64, 8))
    rows = result["variants"]
    assert rows["plain"]["ratio_to_plain"] == 1.0
    assert rows["plain"]["ratio_range"] == [1.0, 1.0]
    low, high = rows["fast"]["ratio_range"]
    assert 0 < low <= rows["fast"]["ratio_to_plain"] <= high
    assert set(rows["fast"]["cpu_milliseconds"]) == {"discriminator", "generator", "average"}
    # Halved share or doubled floor would be a lazy phase counted wrongly; DCGAN has none, so the floor is all FLOPs.
    floor = sum(rows["plain"]["gflops_by_phase"].values()) / result["peak_gflops_per_second"]["float32"] * 1e3
    assert rows["plain"]["floor_milliseconds"] == pytest.approx(floor)


@pytest.mark.thorough
def test_each_variant_bears_its_own_flops():
    result = paired.compare("stylegan2", 16, 4, rounds=1, widths=(64, 8))
    rows = result["variants"]
    gflops = {variant: row["gflops_by_phase"] for variant, row in rows.items()}
    assert gflops["fast"] == pytest.approx(gflops["float32"])
    assert gflops["plain"]["generator"] > gflops["float32"]["generator"]  # it multiplies the zeros between pixels
    for variant in ("plain", "float32"):
        step = sum(gflops[variant][name] / every for name, every in zip(gflops["plain"], (1, 16, 1, 4), strict=True))
        assert list(gflops[variant]) == ["discriminator", "r1", "generator", "path_length"]
        floor = step / result["peak_gflops_per_second"]["float32"] * 1e3
        assert rows[variant]["floor_milliseconds"] == pytest.approx(floor)


def test_the_quality_gate_is_on_paired_differences():
    """Seeds that differ far more than the precisions do; the interval is that of a t-test of pairs, by hand."""
    verdict = quality.judge([10.0, 20.0, 30.0], [11.0, 22.0, 33.0])
    half = 4.303 * 1.0 / 3**0.5  # differences 1, 2, 3
    assert verdict["difference_interval"] == pytest.approx([2.0 - half, 2.0 + half])
    assert verdict["margin"] == pytest.approx(4.0)
    assert not verdict["within"]  # 4.48 is beyond it, though all of it lies between float32's own seeds
    assert quality.judge([10.0, 20.0, 30.0], [10.1, 20.2, 30.3])["within"]


@pytest.mark.thorough
def test_quality_of_both_precisions_over_seeds(tmp_path):
    file = tmp_path / "quality.json"
    assert quality.main(["dcgan", "--seeds", "2", "--images", "32", "--json", str(file)]) == 0
    (row,) = json.loads(file.read_text())
    first, second = (low - high for low, high in zip(row["bfloat16"], row["float32"], strict=True))
    low, high = row["difference_interval"]
    assert (low + high) / 2 == pytest.approx((first + second) / 2)
    assert (high - low) / 2 == pytest.approx(12.706 * abs(first - second) / 2)
    assert len(set(row["float32"] + row["bfloat16"])) == 4  # every seed and precision is its own
