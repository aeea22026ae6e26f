# SPDX-License-Identifier: Apache-2.0
"""Progress: which stage runs, how far it is, and how long it will take, for whoever looks on."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from qcompile.memory import return_freed

P = ParamSpec("P")
T = TypeVar("T")


class Progress:
    """Shows nothing; the subclasses do. Used as a context, so that what is shown ends."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, stage: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The stage's result; its function's name is what is shown."""
        return_freed()
        self.begin(stage.__name__)
        result = stage(*args, **kwargs)
        self.end()
        return result

    def begin(self, stage: str) -> None:
        """A stage begins."""

    def step(self, unit: str, done: int, total: int) -> None:
        """The stage has done so many of all its samples or layers."""

    def end(self) -> None:
        """The stage has ended."""

    def close(self) -> None:
        """Nothing more comes, perhaps because of an error."""


class Counter:
    """Counts the steps of a stage whose parts are of many kinds."""

    def __init__(
        self, watch: Callable[[str, int, int], None] | None, unit: str, total: int
    ) -> None:
        self._watch, self._unit, self._total, self._done = watch, unit, total, 0

    def __call__(self) -> None:
        """One more is done; of all, where more come than were thought, as many as are done."""
        self._done += 1
        if self._watch is not None:
            self._watch(self._unit, self._done, max(self._total, self._done))


class ProgressLines(Progress):
    """A line on stderr for every stage that has ended: for logs."""

    _start = 0.0
    _last = ""
    _stage = ""

    def begin(self, stage: str) -> None:
        """Note the time."""
        self._start, self._stage, self._last = time.monotonic(), stage, ""

    def step(self, unit: str, done: int, total: int) -> None:
        """Note how many."""
        self._last = f", {done} of {total} {unit}"

    def end(self) -> None:
        """Say how long it took."""
        seconds = time.monotonic() - self._start
        print(f"{self._stage}: {seconds:.1f} s{self._last}", file=sys.stderr)  # noqa: T201


class ProgressBar(Progress):
    """One line on a terminal: stage, bar, how many, time left; gone at the end."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeRemainingColumn(),
        )
        self._bars = Bars(*columns, console=Console(stderr=True), transient=True)
        self._task: TaskID | None = None

    def begin(self, stage: str) -> None:
        """A bar without a length, until the stage says how much it has to do."""
        self._bars.start()
        self._task = self._bars.add_task(stage, total=None, unit="")

    def step(self, unit: str, done: int, total: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total, unit=unit)

    def end(self) -> None:
        """Take the stage's bar away."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def close(self) -> None:
        """Take everything away."""
        self._bars.stop()


def progress_of(*, quiet: bool, verbose: bool) -> Progress:
    """A bar on a terminal; elsewhere lines with `verbose`, else nothing."""
    if quiet:
        return Progress()
    if sys.stderr.isatty():
        return ProgressBar()
    return ProgressLines() if verbose else Progress()
