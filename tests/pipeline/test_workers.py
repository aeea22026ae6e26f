# SPDX-License-Identifier: Apache-2.0
"""Results of worker processes: in order, as without them, within the memory, and their errors."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from qcompile.errors import InputError
from qcompile.memory import BASE_BYTES
from qcompile.workers import Job, Workers
from tests.pipeline.test_compensate import cnn

MEMORY = 3 * BASE_BYTES


@pytest.fixture(scope="module")
def two() -> Iterator[Workers]:
    """Processes that all tests use: one takes a second or two to start."""
    with Workers(2) as workers:
        yield workers


def jobs(numbers: list[int], started: list[int], size: int = 0) -> Iterator[Job[int, int]]:
    """Each gives the square of its number; `started` is told when one begins."""

    def arguments(number: int) -> tuple[int, int]:
        started.append(number)
        return number, 2

    for number in numbers:
        yield Job(number, pow, partial(arguments, number), size)


def own_threads() -> tuple[int, set[int]]:
    """The process, and the threads of its BLAS."""
    blas = [each for each in threadpool_info() if each["user_api"] == "blas"]
    return os.getpid(), {each["num_threads"] for each in blas}


def test_results_come_in_order_and_no_more_than_fit_are_under_way(two: Workers) -> None:
    numbers, started = list(range(9)), list[int]()
    found = two.results(jobs(numbers, started, BASE_BYTES // 2), MEMORY)
    assert next(found) == (0, 0)
    assert started == [0, 1]  # the third was about to start when the first was awaited
    assert list(found) == [(n, n * n) for n in numbers[1:]]
    large = two.results(jobs([3], started, 2 * MEMORY), MEMORY)
    assert list(large) == [(3, 9)]


def test_workers_are_other_processes_of_one_thread(two: Workers) -> None:
    asked = [Job(i, own_threads, tuple) for i in range(4)]
    for _, (process, threads) in two.results(asked, MEMORY):
        assert process != os.getpid()
        assert threads == {1}


@pytest.mark.parametrize(("count", "memory"), [(1, MEMORY), (2, 2 * BASE_BYTES - 1)])
def test_one_worker_or_no_memory_for_two_is_this_process(count: int, memory: int) -> None:
    with Workers(count) as workers:
        found = dict(workers.results([Job(0, own_threads, tuple)], memory))
    assert found[0][0] == os.getpid()


def test_a_worker_that_dies_is_an_error_that_says_what_to_do() -> None:
    with Workers(2) as workers, pytest.raises(InputError, match="fewer --workers"):
        list(workers.results([Job(0, os._exit, lambda: (9,))], MEMORY))


def test_ctrl_c_is_left_to_the_first_process(two: Workers) -> None:
    asked = [Job(0, signal.getsignal, lambda: (signal.SIGINT,))]
    assert list(two.results(asked, MEMORY)) == [(0, signal.SIG_IGN)]


def test_errors_of_a_job_come_back(two: Workers) -> None:
    with pytest.raises(ZeroDivisionError):
        list(two.results([Job(0, divmod, lambda: (1, 0))], MEMORY))


@pytest.mark.parametrize("count", [0, -1])
def test_no_workers_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"{count} workers: at least 1 is needed"):
        Workers(count)


@pytest.mark.slow
def test_compensated_weights_are_the_same(two: Workers) -> None:
    found = cnn()
    found.division = replace(found.division, workers=two)
    other = found.run()
    assert list(other.compensated) == list(found.stats.compensated)
    for name, each in found.stats.compensated.items():
        before, after = each.read(), other.compensated[name].read()
        assert np.array_equal(before.codes, after.codes)
        assert np.array_equal(before.decode(), after.decode())
        assert (each.error, each.nearest_error) == (
            other.compensated[name].error,
            other.compensated[name].nearest_error,
        )
