"""The machine's own floors: read bandwidth and the rate of dense matrix products."""

from __future__ import annotations

from benchmarks.harness import Report


def run(report: Report, quick: bool) -> None:
    """Report the floors that every benchmark of this run is compared with."""
    report.add("read bandwidth", report.floors.read_gigabytes_per_second, "GB/s")
    report.add("dgemm rate", report.floors.gigaflops_per_second, "GFLOP/s")
    note = "a smaller product: only roughly T" if quick else "one product of two 4096 x 4096 matrices"
    report.add("T", report.floors.matmul_seconds, "s", note=note)
