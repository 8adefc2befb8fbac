import dataclasses
import io
import json
import math
import platform
import re
import sys

import numpy as np
import pytest
from rich.console import Console

from benchmarks import harness, machine, memory
from benchmarks.__main__ import find_benchmarks, main

FLOORS = harness.Floors(read_gigabytes_per_second=20.0, matmul_seconds=1.0, gigaflops_per_second=100.0)


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by one that a test can set forward."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(harness, "time", clock)
    return clock


@pytest.fixture
def job(clock):
    """Return a call that takes 9 seconds to warm up, and then 3, 1, 2, 5 and 4."""
    durations = iter([9.0, 3.0, 1.0, 2.0, 5.0, 4.0])

    def call():
        clock.now += next(durations)

    return call


def test_best_time_is_the_least_after_the_warm_up(job):
    assert harness.best_time(job, repeats=5) == 1.0


def test_median_time_is_the_middle_after_the_warm_up(job):
    assert harness.median_time(job, repeats=5) == 3.0


def test_no_repeats_is_an_error():
    with pytest.raises(ValueError, match="repeats must be at least 1, but is 0"):
        harness.times(lambda: None, repeats=0)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5, 3.0])
def test_growth_exponent_of_a_power_law(exponent):
    sizes = np.array([2**15, 2**16, 2**17, 2**18])
    assert harness.growth_exponent(sizes, 3e-7 * sizes**exponent) == pytest.approx(exponent, abs=1e-12)


def test_growth_exponent_fits_all_sizes():
    # log2 of the times is 0, 1, 2, 5: the least-squares slope is (-1.5 * -2 - 0.5 * -1 + 0 + 1.5 * 3) / 5
    assert harness.growth_exponent([1, 2, 4, 8], [1, 2, 4, 32]) == pytest.approx(1.6)


@pytest.mark.parametrize(
    ("sizes", "seconds", "message"),
    [
        ([1, 2, 4], [1, 2, 3], "at least four different sizes, but there are 3"),
        ([1, 2, 4, 4], [1, 2, 3, 3], "at least four different sizes, but there are 3"),
        ([1, 2, 4, 8], [1, 2, 3], "there are 4 sizes, but 3 times"),
        ([1, 2, 4, 8], [1, 2, 3, 0], "sizes and times must be positive"),
    ],
)
def test_growth_exponent_refuses_bad_input(sizes, seconds, message):
    with pytest.raises(ValueError, match=message):
        harness.growth_exponent(sizes, seconds)


def test_floors_convert_work_to_seconds():
    assert FLOORS.read_seconds(40e9) == pytest.approx(2.0)
    assert FLOORS.flop_seconds(50e9) == pytest.approx(0.5)


def test_the_measured_rate_belongs_to_the_measured_time():
    floors = harness.measure_floors(matmul_size=64, read_megabytes=1)
    assert floors.gigaflops_per_second * floors.matmul_seconds == pytest.approx(2 * 64**3 / 1e9)
    assert floors.read_gigabytes_per_second > 0


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "ratio", "met"),
    [
        (1.0, 2.0, False, 0.5, True),
        (2.0, 2.0, False, 1.0, True),
        (3.0, 2.0, False, 1.5, False),
        (3.0, 2.0, True, 1.5, True),
        (1.0, 2.0, True, 0.5, False),
        (1.0, None, False, None, None),
        (1.0, 0.0, False, math.inf, False),
    ],
)
def test_a_limit_is_met_or_missed(value, limit, at_least, ratio, met):
    measurement = harness.Measurement("name", value, "s", limit, at_least)
    assert measurement.ratio == ratio
    assert measurement.met is met


def test_not_a_number_meets_no_limit():
    assert harness.Measurement("name", math.nan, "s", 1.0).met is False
    assert harness.Measurement("name", math.nan, "s", 1.0, at_least=True).met is False


@pytest.fixture
def report():
    report = harness.Report("example", FLOORS, {"n": 8})
    report.add("build", 0.5, "T", limit=1.0)
    report.add("product", 0.1, "dgemm rate", limit=0.25, at_least=True, note="64 vectors")
    report.add("rank", 12, "")
    return report


def test_a_report_knows_what_was_missed(report):
    assert [measurement.name for measurement in report.missed] == ["product"]


def test_a_printed_report_shows_floors_ratios_and_verdicts(report):
    text = io.StringIO()
    report.print(Console(file=text, width=120))
    lines = text.getvalue().splitlines()
    assert "read 20.0 GB/s" in lines[0]
    assert "T = 1.000 s" in lines[0]
    assert any("build" in line and "<= 1" in line and "0.50" in line and "yes" in line for line in lines)
    assert any("product" in line and ">= 0.25" in line and "0.40" in line and "NO" in line for line in lines)


def test_a_report_is_written_with_the_machine_and_every_value(report, tmp_path):
    path = report.write(tmp_path / "results")
    content = json.loads(path.read_text())
    assert path.name == f"example-{content['date']}.json"
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no temporary file is left
    assert content["machine"] == machine.describe_machine()
    assert content["floors"] == dataclasses.asdict(FLOORS)
    assert content["parameters"] == {"n": 8}
    assert content["measurements"][1] == {
        "name": "product",
        "value": 0.1,
        "unit": "dgemm rate",
        "limit": 0.25,
        "at_least": True,
        "note": "64 vectors",
        "ratio": 0.4,
        "met": False,
    }


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "old.json"
    path.write_text("old")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(harness.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        harness.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_description_identifies_no_machine():
    text = json.dumps(machine.describe_machine())
    assert not re.search(rf"\b{re.escape(platform.node() or 'no-name')}\b", text)
    assert "/lib" not in text
    assert "site-packages" not in text


def test_the_description_names_the_blas_and_its_threads():
    libraries = machine.describe_machine()["blas"]
    assert libraries
    assert all(library["num_threads"] >= 1 for library in libraries)


def hold_megabytes(megabytes):
    """Hold an array for a moment, and return the size of a smaller one."""
    array = np.ones(megabytes * 1_000_000 // 8)
    return array[:5].nbytes


def test_peak_memory_sees_an_array_that_is_gone_again():
    measured = memory.peak_memory(hold_megabytes, 200)
    assert measured.result == 40
    assert 195e6 < measured.peak_bytes < 260e6
    assert measured.baseline_bytes > 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets an earlier peak")
def test_peak_memory_does_not_count_the_preparation():
    measured = memory.peak_memory(hold_megabytes, 100, prepare=hold_three_times)
    assert 95e6 < measured.peak_bytes < 160e6


def hold_three_times(megabytes):
    hold_megabytes(3 * megabytes)


def fail_with(message):
    raise ValueError(message)


def test_peak_memory_passes_errors_on():
    with pytest.raises(ValueError, match="singular"):
        memory.peak_memory(fail_with, "singular")


def test_the_harness_itself_is_no_benchmark():
    assert "floors" in find_benchmarks()
    assert not {"harness", "machine", "memory"} & find_benchmarks().keys()


def test_the_list_shows_each_benchmark_with_its_first_line(capsys):
    assert main(["--list"]) == 0
    assert "floors        The machine's own floors" in capsys.readouterr().out


def test_an_unknown_name_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        main(["unknown"])
    message = capsys.readouterr().err
    assert f"no benchmark named unknown; there are {', '.join(find_benchmarks())}" in message
    assert "floors" in message


def test_a_missed_limit_makes_the_exit_status_one(monkeypatch, tmp_path, capsys):
    def run(report, quick):
        report.add("time", 2.0, "s", limit=1.0)

    monkeypatch.setattr("benchmarks.floors.run", run)
    assert main(["floors", "--quick", "--results", str(tmp_path)]) == 1
    assert "1 measurements missed their limit" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []  # a quick run writes no results


@pytest.mark.slow
def test_the_benchmark_of_devices_runs_without_one():
    from benchmarks import gpu

    report = harness.Report("gpu", FLOORS)
    gpu.run(report, quick=True)
    assert "stand-in" in report.parameters["device"] or "CUDA" in report.parameters["device"]
    assert report.missed == []
    names = " ".join(m.name for m in report.measurements)
    assert all(name in names for name in ("from products", "ULV", "Cholesky", "H, log r: build", "H2, 1 / r: build"))


@pytest.mark.slow
def test_the_benchmark_of_training_steps_on_a_gpu_runs_without_one():
    from benchmarks import nn_gpu

    report = harness.Report("nn_gpu", FLOORS)
    nn_gpu.run(report, quick=True)
    speeds = [m for m in report.measurements if "speed of Neural-HSS over FNO" in m.name]
    assert [m.name[:3] for m in speeds] == ["1-D", "2-D", "3-D"]
    assert all(m.value > 0 for m in report.measurements)


def test_without_a_gpu_nothing_is_measured(monkeypatch, tmp_path, capsys):
    from benchmarks import gpu

    monkeypatch.setattr(gpu, "find_device", lambda *, stand_in: None)
    monkeypatch.setattr("benchmarks.__main__.measure_floors", lambda *sizes: FLOORS)
    assert main(["gpu", "--results", str(tmp_path)]) == 0
    assert "no GPU was found: nothing was measured" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
