"""The first example that a newcomer meets runs as printed."""

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]


def first_example(path, pattern):
    return textwrap.dedent(re.search(pattern, (ROOT / path).read_text(encoding="utf-8"), re.DOTALL)[1])


def test_the_first_example_of_the_readme_runs(capsys):
    source = first_example("README.md", r"```python\n(.*?)```")
    exec(compile(source, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_the_first_example_of_the_documentation_runs(capsys):
    source = first_example("docs/index.rst", r"\.\. code-block:: python\n\n(.*?)\n\n\S")
    exec(compile(source, "docs/index.rst", "exec"), {})
    assert capsys.readouterr().out
