"""Pages of results are what `structmat-nn report` makes of the committed result files, to the letter."""

from pathlib import Path

import pytest

from structmat_nn.experiments import report

ROOT = Path(__file__).parents[3]
RESULTS, PAGES = ROOT / "benchmarks" / "results" / "nn", ROOT / "docs" / "nn"
NAMES = sorted(path.name for path in RESULTS.iterdir() if path.is_dir())


def test_every_experiment_with_results_has_a_page():
    assert {path.name for path in PAGES.glob("results_*.rst")} == {f"results_{name}.rst" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_page_follows_from_the_result_files(name):
    (table,) = report.tables(RESULTS, [name])
    page = (PAGES / f"results_{name}.rst").read_text(encoding="utf-8")
    drawn = [Path(line.split()[-1]) for line in page.splitlines() if line.startswith(".. image::")]
    assert all((PAGES / path).is_file() for path in drawn)
    assert report.as_rst(table, drawn) == page
