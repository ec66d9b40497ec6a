"""What all sessions on a run share: named objects and the label tree, changed only in ways that can be taken back."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError
from splatseg.core.label_tree import LabelTree
from splatseg.core.selection import Selection
from splatseg.session.copies import Placement

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
        placement: None for Gaussians of the splat; else this is a copy of them that stands elsewhere: it is drawn and
            exported with the scene, and neither found by clicks nor part of labels.
    """

    id: int
    name: str
    color: Color
    ids: Tensor
    visible: bool = True
    placement: Placement | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def selection(self, n: int) -> Selection:
        """It, or what it was copied from, as a selection of a splat of ``n`` Gaussians."""
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
    """Replacement of some objects (None: absent) and, where ``trees`` is given, of the label tree and its level.

    What is the same before and after is not part of the change: ``trees`` of one tree changes the level alone, of one
    level the tree alone.
    """

    before: Mapping[int, SceneObject | None] = field(default_factory=dict)
    after: Mapping[int, SceneObject | None] = field(default_factory=dict)
    trees: tuple[tuple[LabelTree | None, int], tuple[LabelTree | None, int]] | None = None

    def reversed(self) -> Change:
        return Change(self.after, self.before, None if self.trees is None else (self.trees[1], self.trees[0]))

    def standing(self, content: Content) -> tuple[Change, tuple[str, ...]]:
        """The part of the change whose ``before`` is what ``content`` holds, and names of what the rest is about."""
        keys = [key for key, old in self.before.items() if content.objects.get(key) is old]
        left = [self._name(key, content) for key in self.before if key not in keys]
        trees = self.trees
        if trees is not None and not self._labels_stand(content):
            trees = None
            left.append("the labels")
        return Change({k: self.before[k] for k in keys}, {k: self.after[k] for k in keys}, trees), tuple(left)

    def applied(self, content: Content) -> Content:
        """``content`` with the change made, all of which must stand."""
        objects = {k: o for k, o in content.objects.items() if k not in self.before}
        objects.update({k: o for k, o in self.after.items() if o is not None})
        tree, level = content.tree, content.level
        if self.trees is not None:
            (old, old_level), (new, new_level) = self.trees
            tree = tree if old is new else new
            if content.level == old_level:  # else it is another window's, and stays as far as the tree has it
                level = new_level
            level = min(level, 0 if tree is None else tree.levels - 1)
        return Content(MappingProxyType(dict(sorted(objects.items()))), tree, level)

    def _labels_stand(self, content: Content) -> bool:
        assert self.trees is not None
        (old, old_level), (new, new_level) = self.trees
        if old is not new:
            return content.tree is old
        if content.tree is None or old_level == new_level:
            return old_level == new_level
        return content.level == old_level and new_level < content.tree.levels

    def _name(self, key: int, content: Content) -> str:
        entry = content.objects.get(key) or self.before.get(key) or self.after.get(key)
        return f"object {key}" if entry is None else entry.name


class SharedState:
    """The current :class:`Content`; changes come one at a time and listeners hear of each after it is made."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.content = Content()
        self.version = 0
        self._next_id = 1
        self._deletions: Counter[int] = Counter()
        self._listeners: list[Callable[[], None]] = []

    def new_id(self) -> int:
        with self.lock:
            self._next_id += 1
            return self._next_id - 1

    def deletions(self, key: int) -> int:
        """How often the object ``key`` went away: who refers to it by id learns that another has come in its place."""
        return self._deletions[key]

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` after every change, in the thread that made it. Returns what stops that."""
        with self.lock:
            self._listeners.append(listener)

        def stop() -> None:
            with self.lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop

    def edit(self, make: Callable[[Content], Change]) -> Change:
        """Make the change that ``make`` computes from the current content; nobody else changes it in between.

        ``make`` must be quick; what it raises is passed on and changes nothing.

        Raises:
            SplatsegError: the change replaces what is not there (any more); nothing is changed then.
        """
        with self.lock:
            change = make(self.content)
            left = change.standing(self.content)[1]
            if left:
                raise SplatsegError(
                    f"{left[0]}: expected it unchanged since that step, found it changed in another window"
                )
            self._put(change)
        self._tell()
        return change

    def apply(self, change: Change) -> None:
        """Make ``change``. Errors as :meth:`edit`."""
        self.edit(lambda content: change)

    def apply_standing(self, change: Change) -> tuple[Change, tuple[str, ...]]:
        """Make the part of ``change`` that still applies; returns it, and names of what others have changed since."""
        with self.lock:
            standing, left = change.standing(self.content)
            self._put(standing)
        self._tell()
        return standing, left

    def _put(self, change: Change) -> None:
        before, self.content = self.content, change.applied(self.content)
        self._deletions.update(before.objects.keys() - self.content.objects.keys())
        self._next_id = max([self._next_id, *(k + 1 for k in self.content.objects)])
        self.version += 1

    def _tell(self) -> None:
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


def shown_copies(content: Content, isolated: int | None) -> tuple[SceneObject, ...]:
    """The copies that are drawn."""
    copies = (o for o in content.objects.values() if o.placement is not None)
    if isolated is not None and isolated in content.objects:
        return tuple(o for o in copies if o.id == isolated)
    return tuple(o for o in copies if o.visible)


def hidden_mask(content: Content, n: int, isolated: int | None) -> Tensor | None:
    """(n,) bool, True where nothing is drawn: hidden objects, or all but the isolated one; None if all is visible."""
    if isolated is not None and isolated in content.objects:
        mask, alone = torch.ones(n, dtype=torch.bool), content.objects[isolated]
        if alone.placement is None:
            mask[alone.ids.long()] = False
        return mask
    hidden = [o for o in content.objects.values() if not o.visible and o.placement is None]
    if not hidden:
        return None
    mask = torch.zeros(n, dtype=torch.bool)
    for entry in hidden:
        mask[entry.ids.long()] = True
    return mask
