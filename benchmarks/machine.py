"""A description of the machine that a result was measured on, without anything that identifies it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any


def describe_machine() -> dict[str, Any]:
    """Return the processor, cores, memory, system, and the versions and threads of the libraries."""
    return {
        "processor": processor_model(),
        "cores": usable_cores(),
        "memory_gigabytes": memory_gigabytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": library_versions("structmat", "numpy", "scipy", "numba"),
        "numba_threads": numba_threads(),
        "blas": blas_libraries(),
    }


def processor_model() -> str:
    """Return the processor's model name, as far as the system tells."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return the number of logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_gigabytes() -> float:
    """Return the size of the main memory."""
    import psutil

    return round(psutil.virtual_memory().total / 1e9, 1)


def library_versions(*names: str) -> dict[str, str]:
    """Return the installed version of each library that is installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def numba_threads() -> int:
    """Return the number of threads that Numba's parallel loops use."""
    import numba

    return int(numba.get_num_threads())


def blas_libraries() -> list[dict[str, Any]]:
    """Return the BLAS libraries in use and their threads, without the folders that they were loaded from."""
    import numpy.linalg  # noqa: F401  loads the BLAS that is asked for here
    import threadpoolctl

    wanted = ("internal_api", "version", "num_threads", "threading_layer", "architecture")
    libraries = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return [{key: pool[key] for key in wanted if key in pool} for pool in libraries]
