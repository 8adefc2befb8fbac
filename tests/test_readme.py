"""The first example that a newcomer meets runs as printed."""

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]


def first_example(path, pattern):
    return textwrap.dedent(re.search(pattern, (ROOT / path).read_text(encoding="utf-8"), re.DOTALL)[1])


def test_the_examples_of_the_readme_run(capsys):
    sources = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(sources) == 2
    names: dict[str, object] = {}
    for source in sources:  # the second goes on where the first ends
        exec(compile(source, "README.md", "exec"), names)
        assert capsys.readouterr().out


def test_the_first_example_of_the_documentation_runs(capsys):
    source = first_example("docs/index.rst", r"\.\. code-block:: python\n\n(.*?)\n\n\S")
    exec(compile(source, "docs/index.rst", "exec"), {})
    assert capsys.readouterr().out
