"""Run benchmarks: ``python -m benchmarks [NAME ...] [--list] [--quick]``."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

import benchmarks
from benchmarks.harness import RESULTS, Report, measure_floors


def find_benchmarks() -> dict[str, ModuleType]:
    """Return the modules of this folder that have a function ``run``, by name."""
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name != "__main__"]
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "run")}


def parse_arguments(arguments: list[str] | None, available: dict[str, ModuleType]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to run (all): {', '.join(available)}")
    parser.add_argument("--list", action="store_true", help="list the benchmarks, and run none")
    parser.add_argument("--quick", action="store_true", help="small sizes, a first look; writes no results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON files")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in available]
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(available)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen benchmarks; return 1 if a measurement missed its limit."""
    available = find_benchmarks()
    options = parse_arguments(arguments, available)
    if options.list:
        for name, module in available.items():
            print(f"{name:12s}  {(module.__doc__ or '').strip().splitlines()[0]}")
        return 0
    missed = 0
    for name in options.names or available:
        missed += len(run_one(name, available[name], options).missed)
    print(f"{missed} measurements missed their limit" if missed else "no limit was missed")
    return int(missed > 0)


def run_one(name: str, module: ModuleType, options: argparse.Namespace) -> Report:
    """Measure the floors, run one benchmark, print its report, and write it unless it was quick."""
    floors = measure_floors(1024, 64) if options.quick else measure_floors()
    report = Report(name, floors, {"quick": options.quick})
    module.run(report, options.quick)
    report.print()
    if not options.quick and report.measurements:
        print(f"wrote {report.write(options.results).name}")
    return report


if __name__ == "__main__":
    sys.exit(main())
