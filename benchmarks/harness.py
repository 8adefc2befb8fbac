"""What all benchmarks share: the machine's floors, timers, growth exponents, peak memory and reports.

Times on a shared machine differ by up to a factor of two between runs, so a benchmark states its targets in
units of floors that are measured in the same run: the read bandwidth, and ``T``, the time of one 4096 x 4096
matrix product.
"""

from __future__ import annotations

import datetime
import functools
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine

RESULTS = Path(__file__).parent / "results"
# several times the largest cache of common machines
EVICTING_BYTES = 1 << 28


# Timers


def times(function: Callable[[], Any], repeats: int, warm_up: int = 1) -> list[float]:
    """Return the seconds that each of `repeats` calls takes, after `warm_up` calls that are not counted."""
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, but is {repeats}")
    for _ in range(warm_up):
        function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


def best_time(function: Callable[[], Any], repeats: int = 5, warm_up: int = 1) -> float:
    """Return the least seconds that a call takes: what the code can do when nobody disturbs it."""
    return min(times(function, repeats, warm_up))


def median_time(function: Callable[[], Any], repeats: int = 5, warm_up: int = 1) -> float:
    """Return the median seconds that a call takes: what a user sees."""
    return statistics.median(times(function, repeats, warm_up))


def cold_time(function: Callable[[], Any], repeats: int = 10) -> float:
    """Return the least seconds that a call takes when its data come from memory: caches are emptied before each."""
    function()
    scratch = np.zeros(EVICTING_BYTES // 8)
    found = []
    for _ in range(repeats):
        scratch += 1.0
        found += times(function, 1, 0)
    return min(found)


def alternating_times(functions: Sequence[Callable[[], Any]], repeats: int = 20) -> list[float]:
    """Return the least seconds that a call of each function takes, called in turns: for ratios on a busy machine."""
    for function in functions:
        function()
    rounds = [[times(function, 1, 0)[0] for function in functions] for _ in range(repeats)]
    return [min(column) for column in zip(*rounds, strict=True)]


def growth_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the exponent p of the least-squares fit ``seconds = c * sizes**p``.

    Raises
    ------
    ValueError
        If there are fewer than four sizes, or if a size or a time is not positive.
    """
    if len(sizes) != len(seconds):
        raise ValueError(f"there are {len(sizes)} sizes, but {len(seconds)} times")
    different = len(set(sizes))
    if different < 4:
        raise ValueError(f"a growth exponent needs at least four different sizes, but there are {different}")
    if min(sizes) <= 0 or min(seconds) <= 0:
        raise ValueError("sizes and times must be positive")
    slope, _intercept = np.polyfit(np.log(sizes), np.log(seconds), 1)
    return float(slope)


# Floors


@dataclass(frozen=True)
class Floors:
    """What the machine can do at best, in the run that it is compared with."""

    read_gigabytes_per_second: float
    matmul_seconds: float  # T, in the documentation
    gigaflops_per_second: float  # of that product

    def read_seconds(self, nbytes: float) -> float:
        """Return the time that reading so many bytes takes at the measured bandwidth."""
        return nbytes / (1e9 * self.read_gigabytes_per_second)

    def flop_seconds(self, flops: float) -> float:
        """Return the time that so many operations take at the measured dgemm rate."""
        return flops / (1e9 * self.gigaflops_per_second)


def measure_floors(matmul_size: int = 4096, read_megabytes: int = 512) -> Floors:
    """Measure the read bandwidth and the time of one float64 matrix product, with all threads."""
    bandwidth = read_bandwidth(read_megabytes)
    seconds = matmul_time(matmul_size)
    return Floors(bandwidth, seconds, 2 * matmul_size**3 / seconds / 1e9)


def read_bandwidth(megabytes: int = 512, repeats: int = 10) -> float:
    """Return the GB/s at which all threads together read an array that is larger than the caches."""
    array = np.ones(megabytes * 1_000_000 // 8)  # (values,)
    parallel_sum = _compile_parallel_sum()
    return array.nbytes / best_time(lambda: parallel_sum(array), repeats) / 1e9


def matmul_time(size: int = 4096, repeats: int = 3) -> float:
    """Return the median seconds of one ``size`` x ``size`` float64 product by NumPy, with all threads."""
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, size, size))
    result = np.empty((size, size))  # written once before, so that no page fault is timed
    return median_time(lambda: np.matmul(left, right, out=result), repeats)


@functools.cache
def _compile_parallel_sum() -> Callable[[np.ndarray], float]:
    """Compile a sum over a vector that reads with all threads; fastmath lets it use vector registers."""
    import numba

    @numba.njit(parallel=True, fastmath=True)
    def parallel_sum(values):
        total = 0.0
        for i in numba.prange(values.size):
            total += values[i]
        return total

    return parallel_sum


# Reports


@dataclass(frozen=True)
class Measurement:
    """One measured value, and the limit that it is held to."""

    name: str
    value: float
    unit: str
    limit: float | None = None  # in the same unit
    at_least: bool = False  # whether the limit is a lower one
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The value over its limit."""
        if self.limit is None:
            return None
        return self.value / self.limit if self.limit else math.inf

    @property
    def met(self) -> bool | None:
        """Whether the value keeps its limit; None where there is no limit. Not-a-number keeps none."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass
class Report:
    """The measurements of one benchmark, printed as a table of ratios and written as JSON."""

    name: str
    floors: Floors
    parameters: dict[str, Any] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        limit: float | None = None,
        *,
        at_least: bool = False,
        note: str = "",
    ) -> Measurement:
        """Add one measurement; `limit` is the largest good value, or with `at_least` the least."""
        measurement = Measurement(name, float(value), unit, limit, at_least, note)
        self.measurements.append(measurement)
        return measurement

    @property
    def missed(self) -> list[Measurement]:
        """The measurements that miss their limit."""
        return [measurement for measurement in self.measurements if measurement.met is False]

    def print(self, console: Console | None = None) -> None:
        """Print the floors, and a table with each value, its limit and their ratio."""
        console = console or Console()
        floors = self.floors
        console.print(
            f"floors: read {floors.read_gigabytes_per_second:.1f} GB/s, "
            f"dgemm {floors.gigaflops_per_second:.0f} GFLOP/s, T = {floors.matmul_seconds:.3f} s"
        )
        table = Table(title=self.name)
        for heading in ("measurement", "value", "unit", "limit", "value/limit", "met", "note"):
            table.add_column(heading, justify="right" if heading in ("value", "limit", "value/limit") else "left")
        for measurement in self.measurements:
            table.add_row(*_table_row(measurement))
        console.print(table)

    def as_dict(self) -> dict[str, Any]:
        """Return everything that is known about this run, ready for JSON."""
        rows = [asdict(row) | {"ratio": row.ratio, "met": row.met} for row in self.measurements]
        return {
            "name": self.name,
            "date": datetime.date.today().isoformat(),
            "machine": describe_machine(),
            "floors": asdict(self.floors),
            "parameters": self.parameters,
            "measurements": rows,
        }

    def write(self, folder: Path = RESULTS) -> Path:
        """Write ``<name>-<date>.json`` into a folder; a reader never sees a half-written file."""
        content = self.as_dict()
        path = folder / f"{content['name']}-{content['date']}.json"
        write_atomically(path, json.dumps(content, indent=1) + "\n")
        return path


def _table_row(measurement: Measurement) -> list[str]:
    """Format one measurement as the cells of its row."""
    limit, ratio = "", ""
    if measurement.limit is not None:
        limit = f"{'>=' if measurement.at_least else '<='} {measurement.limit:.4g}"
        ratio = f"{measurement.ratio:.2f}"
    verdict = {None: "", True: "yes", False: "[bold red]NO[/]"}[measurement.met]
    value = f"{measurement.value:.4g}"
    return [measurement.name, value, measurement.unit, limit, ratio, verdict, measurement.note]


def write_atomically(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp lets only the owner read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
