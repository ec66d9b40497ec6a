"""A bounded undo history of immutable states."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from splatseg.core.errors import SplatsegError

State = TypeVar("State")


class Held:
    """How many bytes some states hold together; what several of them share counts once.

    Args:
        parts: the arrays that a state holds, each as the object itself and its bytes. They live as long as the state.
    """

    def __init__(self, parts: Callable[[Any], Iterable[tuple[object, int]]]) -> None:
        self.bytes = 0
        self._parts = parts
        self._holders: Counter[int] = Counter()

    def add(self, state: object) -> None:
        for part, size in self._parts(state):
            if not self._holders[id(part)]:
                self.bytes += size
            self._holders[id(part)] += 1

    def remove(self, state: object) -> None:
        for part, size in self._parts(state):
            self._holders[id(part)] -= 1
            if not self._holders[id(part)]:
                self.bytes -= size
                del self._holders[id(part)]


class History(Generic[State]):
    """States a person went through, newest last; at most ``limit`` steps can be undone.

    States are kept as they are handed in and must not be modified afterwards (a :class:`Selection` cannot be).

    Args:
        initial: the first state.
        limit: most steps that can be undone.
        max_bytes: of all states together, undone ones included. The oldest are forgotten beyond it; the current one is
            always kept, however large.
        parts: what a state holds (:class:`Held`); nothing is counted without it.
    """

    def __init__(
        self,
        initial: State,
        limit: int = 100,
        max_bytes: int | None = None,
        parts: Callable[[State], Iterable[tuple[object, int]]] = lambda state: (),
    ) -> None:
        if limit < 1:
            raise SplatsegError(f"history.limit: expected at least 1, found {limit}")
        self._past: deque[State] = deque()
        self._future: list[State] = []
        self._state = initial
        self._limit, self._max_bytes = limit, max_bytes
        self._held = Held(parts)
        self._held.add(initial)

    @property
    def state(self) -> State:
        return self._state

    @property
    def can_undo(self) -> bool:
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        return bool(self._future)

    @property
    def nbytes(self) -> int:
        """Bytes that all states hold together."""
        return self._held.bytes

    def do(self, state: State) -> State:
        """Make ``state`` the current one; what had been undone is forgotten, and the oldest steps past the limits."""
        self._held.add(state)
        for undone in self._future:
            self._held.remove(undone)
        self._future.clear()
        self._past.append(self._state)
        self._state = state
        while self._past and (
            len(self._past) > self._limit or (self._max_bytes is not None and self.nbytes > self._max_bytes)
        ):
            self._held.remove(self._past.popleft())
        return state

    def undo(self) -> State:
        """Step back and return the state; at the oldest one nothing happens."""
        if self._past:
            self._future.append(self._state)
            self._state = self._past.pop()
        return self._state

    def redo(self) -> State:
        """Step forward and return the state; at the newest one nothing happens."""
        if self._future:
            self._past.append(self._state)
            self._state = self._future.pop()
        return self._state

    def amend(self, old: State, new: State) -> None:
        """Put ``new`` in the place of ``old``: the current state, or the one that was undone last."""
        self._held.add(new)
        self._held.remove(old)
        if self._state is old:
            self._state = new
        else:
            assert self._future[-1] is old
            self._future[-1] = new
