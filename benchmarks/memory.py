"""Peak memory of one call, measured in a fresh process.

The operating system itself keeps the largest resident size of a process, so no sample is missed, and compiled
code that holds the interpreter's lock cannot hide its arrays from a sampling thread.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class PeakMemory:
    """What one call needed at its peak, above what its process held before."""

    peak_bytes: int  # above the baseline
    baseline_bytes: int  # resident before the call: interpreter, libraries, the call's arguments
    result: Any  # what the function returned


def peak_memory(function: Callable[..., Any], *arguments: Any, prepare: Callable[..., Any] | None = None) -> PeakMemory:
    """Measure the peak memory of ``function(*arguments)`` in a fresh process.

    Parameters
    ----------
    function : callable
        Must be importable (no lambda), and should return something small, such as ``matrix.nbytes``.
    *arguments
        Passed to the function; pickled, so keep them small.
    prepare : callable, optional
        Called with the same arguments before the baseline is taken, for instance on a small problem, so that
        the compilation of kernels is not counted. What it returns is dropped.

    Returns
    -------
    PeakMemory
        Bytes above the baseline, the baseline, and the result of the function.

    Raises
    ------
    Exception
        Whatever the function raises.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit this process's memory
    with context.Pool(1) as pool:
        return pool.apply(_measure_here, (function, arguments, prepare))


def _measure_here(
    function: Callable[..., Any], arguments: tuple[Any, ...], prepare: Callable[..., Any] | None
) -> PeakMemory:
    """Measure in this process, which nobody used before."""
    if prepare is not None:
        prepare(*arguments)
    _return_free_memory()
    baseline = psutil.Process().memory_info().rss
    _forget_peak()
    result = function(*arguments)
    return PeakMemory(max(0, _peak_resident_bytes() - baseline), baseline, result)


def _return_free_memory() -> None:
    """Give freed memory back to the system, or the call would use it without being seen."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the GNU C library has it
        if trim is not None:
            trim(0)


def _forget_peak() -> None:
    """Let the system forget the earlier peak, where it can; elsewhere that peak counts as the call's."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _peak_resident_bytes() -> int:
    """Return the largest resident size of this process since the last `_forget_peak`."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
