"""Events of the browser, taken one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


def in_order(callback: Callable[[Any], object]) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """``callback`` as viser must be given it: every listener of this room is wrapped in it.

    viser awaits a coroutine function between two messages of the browser, so that events come in the order in which
    they were made, and what ``event.target`` holds is what the person put there. A plain function goes to a pool of
    threads: by the time it runs, the window may have put the old value back, and a drag is lost.

    ``callback`` reads what it needs from the event and queues the rest; it must not wait.
    """

    async def taken(event: Any) -> None:
        try:
            callback(event)
        except Exception:
            # viser would end the connection.
            log.exception("a listener of the viewer failed")

    return taken


def pressed(action: Callable[[], object]) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """:func:`in_order` for what does not ask what happened."""
    return in_order(lambda _: action())
