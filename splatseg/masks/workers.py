"""Masks of many views on all cores, for sources that use one.

Other processes, and not threads: most of a watershed's time holds Python's lock. They are started with
``python -m splatseg.masks.worker``, not by ``multiprocessing``: that would import the caller's script once more in each
(which a script without ``if __name__ == "__main__"`` does not survive), and leaves them behind where the caller is
killed.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from splatseg._processors import usable_processors
from splatseg.core.errors import SplatsegError
from splatseg.core.machine import available_memory
from splatseg.core.scene import View
from splatseg.masks.mask_set import MaskSet
from splatseg.masks.source import MaskSource

PAYS_OFF = 8.0  # seconds of work from which processes are started; each costs some 3 s of a core to start
PROCESS_BYTES = 500 << 20  # what a process with the imports takes
PIXEL_BYTES = 300  # ... and a source of masks for a pixel, at its largest; measured: 100


def find_masks(
    source: MaskSource, views: Sequence[View], processes: int | None = None, shared_by: int = 1
) -> Generator[MaskSet, None, None]:
    """The masks of each view, in order; the same ones however many processes find them.

    Args:
        source: with an attribute ``one_core`` that is true, it must be picklable and may be used in several processes.
        views: all that are wanted.
        processes: that find them; None: this one alone, unless the first view took so long that :func:`affordable`
            others pay off.
        shared_by: processes like this one that share the machine.

    Raises:
        SplatsegError: from the source, for the first view that fails, after the masks of those before it; or a process
            was ended from outside (as for want of memory).
    """
    if not getattr(source, "one_core", False):
        processes = 1
    begin = 0
    if processes is None and len(views):
        started = time.monotonic()
        yield source.masks(views[0])
        begin = 1
        worth_it = (time.monotonic() - started) * (len(views) - 1) > PAYS_OFF
        processes = affordable(views, shared_by) if worth_it else 1
    rest = views[begin:]
    if processes is None or processes <= 1 or len(rest) <= 1:
        yield from (source.masks(view) for view in rest)
        return
    with MaskWorkers(source, min(processes, len(rest))) as workers:
        yield from workers.masks(rest)


def affordable(views: Sequence[View], shared_by: int = 1) -> int:
    """Processes that the cores, and the memory that is free for the largest of ``views``, allow; at least one."""
    largest = max(view.camera.width * view.camera.height for view in views)
    by_memory = (available_memory() or PROCESS_BYTES) // (PROCESS_BYTES + PIXEL_BYTES * largest)
    return max(min(usable_processors(), by_memory) // shared_by, 1)


class MaskWorkers:
    """``count`` processes that find masks with ``source``; a context manager, at whose end they are ended."""

    def __init__(self, source: MaskSource, count: int) -> None:
        self._processes = [_start(source) for _ in range(count)]
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(count, "masks")

    def masks(self, views: Sequence[View]) -> Iterator[MaskSet]:
        """The masks of each view, in order; at most two views per process are begun and not yet given out."""
        begun: deque[Future[MaskSet]] = deque()
        for view in views:
            begun.append(self._threads.submit(self._ask, view))
            if len(begun) >= 2 * len(self._processes):
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()

    def close(self) -> None:
        """End the processes, in the middle of a view too."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
        self._threads.shutdown()
        for process in self._processes:
            process.communicate()

    def __enter__(self) -> MaskWorkers:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, view: View) -> MaskSet:
        process = self._idle.get()
        assert process.stdin is not None and process.stdout is not None
        try:
            pickle.dump(view, process.stdin)
            process.stdin.flush()
            answer: Any = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise SplatsegError(
                f"masks of view '{view.name}': expected an answer of process {process.pid}, found it ended "
                f"(code {process.wait()}); is there memory for {len(self._processes)} at a time?"
            ) from None
        finally:
            self._idle.put(process)
        if isinstance(answer, SplatsegError):
            raise answer
        return answer


def _start(source: MaskSource) -> subprocess.Popen[bytes]:
    """A process with this one's import path, one thread, and ``source``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "splatseg.masks.worker"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it ended already; the first view will say so
        pickle.dump(source, process.stdin)
        process.stdin.flush()
    return process
