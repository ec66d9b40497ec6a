"""Finding kept objects and labels by name, class and size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from splatseg.core.errors import SplatsegError
from splatseg.session.session import Session

MOST = 50  # that a list shows
Kind = Literal["object", "label"]


@dataclass(frozen=True)
class Found:
    """An object or a label. ``id`` is the object's or the label's; ``count`` its Gaussians; ``category`` its class."""

    kind: Kind
    id: int
    name: str
    category: str
    count: int


def search(session: Session, text: str, most: int = MOST) -> tuple[Found, ...]:
    """Objects, then labels of all levels, larger ones first, that ``text`` is about.

    Args:
        text: words, all of which must be in the name or the class, or be "object" or "label"; ``>N`` and ``<N`` bound
            the number of Gaussians. Case does not matter; without words all are found.
        most: no more than so many.

    Raises:
        SplatsegError: a bound that is no number.
    """
    wanted = [_condition(word) for word in text.lower().split()]
    content = session.workspace.shared.content
    every = [Found("object", entry.id, entry.name, "", len(entry)) for entry in content.objects.values()]
    nodes = () if content.tree is None else content.tree.nodes
    every += [Found("label", node.id, node.name, node.category, node.count) for node in nodes]
    hits = [found for found in every if all(holds(found) for holds in wanted)]
    return tuple(sorted(hits, key=lambda found: (found.kind == "label", -found.count))[:most])


def select_found(session: Session, found: Found) -> None:
    """Make it the selection; one step of undo.

    Raises:
        SplatsegError: it is not there any more.
    """
    if found.kind == "object":
        session.combine(found.id, "replace")
    else:
        session.select_label(found.id)


def _condition(word: str) -> Callable[[Found], bool]:
    if word[0] in "<>":
        try:
            bound = float(word[1:].replace(",", ""))
        except ValueError:
            raise SplatsegError(f"search: expected a number after {word[0]}, found {word[1:]!r}") from None
        return (lambda found: found.count > bound) if word[0] == ">" else (lambda found: found.count < bound)
    return lambda found: word == found.kind or word in found.name.lower() or word in found.category.lower()
