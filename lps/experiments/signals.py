"""Ctrl-C and SIGTERM as requests to stop, in one process and in several that share a run."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import distributed as dist

SIGNALS = (signal.SIGINT, signal.SIGTERM)

Stop = Callable[[], bool]


class Session(NamedTuple):
    """What a run heeds: whom it tells of the steps that are done and of all steps, whom it asks whether to stop, and
    the moment, in seconds of ``time.monotonic``, that no epoch may pass."""

    report: Callable[[int, int], None] = lambda step, steps: None
    stop: Stop = lambda: False
    deadline: float | None = None


ALONE = Session()


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Turn Ctrl-C and SIGTERM into a request to stop after the current batch."""
    received: list[int] = []
    before = [signal.signal(number, lambda number, frame: received.append(number)) for number in SIGNALS]
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


def any_stops(stop: Stop) -> bool:
    """Is one of the processes that share a run asked to stop? All of them ask this at the same moment."""
    if not (dist.is_available() and dist.is_initialized()):
        return stop()
    asked: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(asked, stop())
    return any(asked)


@contextmanager
def kept_back() -> Iterator[None]:
    """Keep signals back until :func:`release`: here, and in the processes that are started here.

    Those that share a run wait for one another from their start on; one that a signal ended while it imports would
    leave the others waiting.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        release()


def release() -> None:
    """Let signals in, also those that came in the meantime."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
