"""Work ahead of its use: in order, bounded, errors where they belong."""

from __future__ import annotations

import threading
import time

import pytest

from splatseg.core.ahead import ahead


def test_in_order_and_lazily() -> None:
    begun: list[int] = []

    def square(x: int) -> int:
        begun.append(x)
        time.sleep(0.01 if x % 2 else 0)
        return x * x

    results = ahead(square, range(50), count=3)
    assert next(results) == 0
    assert max(begun) <= 3, "no more than three beside the one that is used"
    assert list(results) == [x * x for x in range(1, 50)]


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_fewer_items_than_threads(size: int) -> None:
    assert list(ahead(str, range(size), count=8)) == [str(k) for k in range(size)]


def test_errors_are_raised_in_their_place() -> None:
    results = ahead(lambda x: 1 // x, [1, 1, 0, 1])
    assert next(results) == 1 and next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_leaving_early_ends_the_threads() -> None:
    before = threading.active_count()
    for _ in range(2):
        for value in ahead(lambda x: x, range(1000)):
            if value == 5:
                break
    assert threading.active_count() == before
