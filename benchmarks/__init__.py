"""Benchmarks of structmat, in units of what the machine itself can do in the same run.

Each module here with a function ``run(report, quick)`` is one benchmark: its docstring says what it measures,
and it adds its measurements to the given `benchmarks.harness.Report`. ``python -m benchmarks --list`` lists
them.
"""
