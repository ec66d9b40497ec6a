"""What all sessions on a run share: named objects and the label tree, changed only in ways that can be taken back."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from splatseg.clusters import LabelTree
from splatseg.errors import SplatsegError
from splatseg.selection import Selection

MAX_NAME = 80
Color = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class SceneObject:
    """A kept selection.

    Attributes:
        id: 1, 2, ...; never used again after a delete.
        name: as shown to people.
        color: (r, g, b), 0..255.
        ids: (m,) int32 Gaussians, ascending.
        visible: False: neither drawn nor found by clicks.
    """

    id: int
    name: str
    color: Color
    ids: Tensor
    visible: bool = True

    def __len__(self) -> int:
        return len(self.ids)

    def selection(self, n: int) -> Selection:
        """It, as a selection of a splat of ``n`` Gaussians."""
        return Selection.of(self.ids.long(), n)


@dataclass(frozen=True, eq=False)
class Content:
    """One state of what is shared; immutable. ``level`` is the label tree's level that is shown."""

    objects: Mapping[int, SceneObject] = field(default_factory=lambda: MappingProxyType({}))
    tree: LabelTree | None = None
    level: int = 0

    def find(self, key: int | str) -> SceneObject:
        """The object with id or name ``key``.

        Raises:
            SplatsegError: there is none, or more than one of that name.
        """
        if isinstance(key, int):
            found = [self.objects[key]] if key in self.objects else []
        else:
            found = [o for o in self.objects.values() if o.name == key]
        if len(found) != 1:
            names = ", ".join(o.name for o in self.objects.values()) or "none"
            raise SplatsegError(f"object {key!r}: expected one of the kept objects ({names}), found {len(found)}")
        return found[0]


@dataclass(frozen=True, eq=False)
class Change:
    """Replacement of some objects (None: absent) and, where ``trees`` is given, of the label tree and its level."""

    before: Mapping[int, SceneObject | None] = field(default_factory=dict)
    after: Mapping[int, SceneObject | None] = field(default_factory=dict)
    trees: tuple[tuple[LabelTree | None, int], tuple[LabelTree | None, int]] | None = None

    def reversed(self) -> Change:
        return Change(self.after, self.before, None if self.trees is None else (self.trees[1], self.trees[0]))


class SharedState:
    """The current :class:`Content`; changes come one at a time and listeners hear of each after it is made."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.content = Content()
        self.version = 0
        self._next_id = 1
        self._listeners: list[Callable[[], None]] = []

    def new_id(self) -> int:
        with self.lock:
            self._next_id += 1
            return self._next_id - 1

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` after every change, in the thread that made it. Returns what stops that."""
        with self.lock:
            self._listeners.append(listener)

        def stop() -> None:
            with self.lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop

    def apply(self, change: Change) -> None:
        """Make ``change``.

        Raises:
            SplatsegError: what it replaces is no longer there (another window changed it); nothing is changed then.
        """
        with self.lock:
            content = self.content
            for key, old in change.before.items():
                if content.objects.get(key) is not old:
                    name = old.name if old else f"object {key}"
                    raise SplatsegError(
                        f"{name}: expected it unchanged since that step, found it changed in another window"
                    )
            if change.trees is not None and content.tree is not change.trees[0][0]:
                raise SplatsegError(
                    "labels: expected them unchanged since that step, found them changed in another window"
                )
            objects = {k: o for k, o in content.objects.items() if k not in change.before}
            objects.update({k: o for k, o in change.after.items() if o is not None})
            tree, level = (content.tree, content.level) if change.trees is None else change.trees[1]
            self.content = Content(MappingProxyType(dict(sorted(objects.items()))), tree, level)
            self._next_id = max([self._next_id, *(k + 1 for k in objects)])
            self.version += 1
        for listener in list(self._listeners):
            listener()


def clean_name(name: str) -> str:
    """``name`` on one line, without control characters, at most 80 characters.

    Raises:
        SplatsegError: nothing is left.
    """
    cleaned = " ".join("".join(c if c.isprintable() else " " for c in name).split())[:MAX_NAME].strip()
    if not cleaned:
        raise SplatsegError("name: expected at least one printable character, found none")
    return cleaned


def file_stem(name: str) -> str:
    """``name`` as a file name without suffix that stays in its folder on every system: letters, digits, ``_ - .``."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._-")[:MAX_NAME]
    return stem or "unnamed"


def check_color(color: Color) -> Color:
    """``color`` as three ints.

    Raises:
        SplatsegError: not three values in 0..255.
    """
    if len(color) != 3 or not all(0 <= c <= 255 for c in color):
        raise SplatsegError(f"color: expected three values in 0..255, found {color}")
    return (int(color[0]), int(color[1]), int(color[2]))


def hidden_mask(content: Content, n: int, isolated: int | None) -> Tensor | None:
    """(n,) bool, True where nothing is drawn: hidden objects, or all but the isolated one; None if all is visible."""
    if isolated is not None and isolated in content.objects:
        mask = torch.ones(n, dtype=torch.bool)
        mask[content.objects[isolated].ids.long()] = False
        return mask
    hidden = [o for o in content.objects.values() if not o.visible]
    if not hidden:
        return None
    mask = torch.zeros(n, dtype=torch.bool)
    for entry in hidden:
        mask[entry.ids.long()] = True
    return mask
