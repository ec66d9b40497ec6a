"""Read ahead: work on the next items while the current one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(function: Callable[[Item], Result], items: Iterable[Item], count: int = 4) -> Iterator[Result]:
    """``function`` of each of ``items``, in order; up to ``count`` are begun, by one thread each, before they are asked
    for, and so many results are held beside the current one.

    Worth it where ``function`` lets go of the interpreter: files, decompression, large arrays. What it raises is raised
    where its result is asked for. Leaving the iteration early drops what is not begun.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(count, "ahead") as threads:
        try:
            for item in items:
                waiting.append(threads.submit(function, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
