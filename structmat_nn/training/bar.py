"""The progress bar of training and of its final stages."""

from __future__ import annotations

from typing import Any


class Bar:
    """A bar on standard error with a line of text; nothing where it is not `shown`."""

    def __init__(self, what: str, *, shown: bool = True) -> None:
        self._progress: Any = None
        if not shown:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True))
        self._task = self._progress.add_task("", total=None)
        self._progress.start()

    def show(self, done: int, total: int, text: str = "") -> None:
        """Move the bar, and show the text behind it."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total, description=text)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._progress is not None:
            self._progress.stop()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
