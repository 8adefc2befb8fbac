"""The terminal: progress bars that are silent where nobody watches, and warnings as lines of text."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def progress_bar(console: Console, title: str) -> Iterator[Callable[[float], None]]:
    """Show a bar while the block runs; gives the function that takes the share of the work just done."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=1.0)

        def advance(share: float) -> None:
            # a build that starts over with finer sampling does more than all of its work
            if progress.tasks[0].completed >= 1.0:
                progress.reset(task)
            progress.update(task, advance=share)

        yield advance


@contextmanager
def warnings_as_lines(console: Console) -> Iterator[None]:
    """Print each different warning of the block as one line, also where the block raises."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for message in dict.fromkeys(str(warning.message) for warning in caught):
                console.print(f"[bold yellow]warning:[/] {_escaped(message)}", soft_wrap=True, highlight=False)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
