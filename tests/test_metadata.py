"""The version is written in four places, for four readers: they agree."""

import re
import tomllib
from pathlib import Path

import structmat

ROOT = Path(__file__).parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def test_the_package_has_the_declared_version():
    assert structmat.__version__ == DECLARED


def test_the_citation_has_the_declared_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (\S+)$", citation, re.MULTILINE)[1] == DECLARED


def test_the_changelog_describes_the_declared_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(DECLARED)}\]", changelog, re.MULTILINE)
