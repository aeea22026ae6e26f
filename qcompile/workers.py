# SPDX-License-Identifier: Apache-2.0
"""Workers: processes for work of which one part does not need another, each with one thread.

What comes back does not depend on how many there are; only the time does.
"""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Generic, TypeVar

from threadpoolctl import threadpool_limits

from qcompile.errors import InputError
from qcompile.memory import BASE_BYTES

Key = TypeVar("Key")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job(Generic[Key, Result]):
    """function(*arguments()), which pickle knows. size: bytes that it takes while it is done."""

    key: Key
    function: Callable[..., Result]
    arguments: Callable[[], tuple[Any, ...]]  # called when the job starts
    size: int = 0


class Workers:
    """A context; with a count of 1 everything is done here and no process starts."""

    def __init__(self, count: int = 1) -> None:
        if count < 1:
            raise InputError(f"{count} workers: at least 1 is needed")
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def results(
        self, jobs: Iterable[Job[Key, Result]], most_bytes: int
    ) -> Iterator[tuple[Key, Result]]:
        """Key and result of every job, in their order; those under way take so much at most.

        A process itself counts 336 MB; one job is always under way, however large.
        """
        count = min(self.count, most_bytes // BASE_BYTES)
        if count < 2:
            yield from ((job.key, job.function(*job.arguments())) for job in jobs)
            return
        left = most_bytes - count * BASE_BYTES
        waiting: deque[tuple[Job[Key, Result], Future[Result]]] = deque()
        for job in jobs:
            while waiting and (len(waiting) >= 2 * count or left < job.size):
                done, future = waiting.popleft()
                yield done.key, _result(future)
                left += done.size
            left -= job.size
            waiting.append((job, self._started(count).submit(job.function, *job.arguments())))
        for done, future in waiting:
            yield done.key, _result(future)

    def _started(self, count: int) -> ProcessPoolExecutor:
        if self._pool is None:  # a fork would copy locks that threads of ONNX Runtime hold
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(count, context, initializer=_begin)
        return self._pool


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's to answer
    threadpool_limits(1)


def _result(future: "Future[Result]") -> Result:
    try:
        return future.result()
    except BrokenProcessPool:
        raise InputError(
            "a worker process was ended, most likely for want of memory: give fewer --workers, "
            "or 1 (from a script of your own, more than one need its `if __name__ == '__main__'`)"
        ) from None
