"""Events of the browser, taken one after the other, and what the server writes into the widgets they come from.

Both happen in the thread of viser's event loop, which takes one message of the browser after the other: a value that a
person has put into a widget is read by its listener before anything else can be written there.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from splatseg.viewer.actions import Actions

LOOP_SECONDS = 10.0  # a loop that does not answer as long is being stopped

log = logging.getLogger(__name__)


def in_order(callback: Callable[[Any], object]) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """``callback`` as viser must be given it: every listener of this room is wrapped in it.

    viser awaits a coroutine function between two messages of the browser, so that events come in the order in which
    they were made. A plain function goes to a pool of threads: by the time it runs, the next event may be through.

    ``callback`` reads what it needs from the event and from other widgets, and queues the rest; it must not wait.
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


def put(window: Actions, handle: Any, value: Any, unless: str | None = None) -> None:
    """Show ``value`` in the input ``handle``; the only way in which this room writes what a person may write, too.

    A person's own newer value stays: written between viser's taking it and its listener's reading it, the server's
    would be read instead, and what the hand did would be lost.

    Args:
        window: whose widget it is.
        handle: viser's handle of an input.
        value: what it shall show.
        unless: the key under which its listener queues: nothing is written while such an action waits.
    """
    if handle.value == value:
        return

    def write() -> None:
        if unless is None or not window.waiting(unless):
            handle.value = value

    window.between_messages(write)


class LoopEvent(asyncio.Event):
    """An event that any thread may set: those that wait for it are woken by its loop alone.

    asyncio's may be set by its loop only. viser 1.1 sets that of a new message in the thread that writes, for its own
    synchronous readers, and lets its loop do so right after. From another thread it now and then met a list of waiters
    that was being changed, and raised in the middle of a write: a refresh, or a progress bar's thread, ended there.
    """

    def set(self) -> None:
        self._value = True
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # the loop's own call follows
        for waiter in list(self._waiters):  # type: ignore[attr-defined]
            if not waiter.done():
                waiter.set_result(True)


def written_by_threads(connection: Any) -> None:
    """Let any thread write through ``connection``: viser's server, or one of its clients' connections."""
    connection.get_message_buffer().message_event.__class__ = LoopEvent


def run_in_loop(loop: asyncio.AbstractEventLoop, act: Callable[[], object]) -> None:
    """Do ``act`` in the thread of ``loop`` and wait for it; nothing where the loop has been stopped."""
    try:
        if asyncio.get_running_loop() is loop:
            act()
            return
    except RuntimeError:
        pass  # this thread runs no loop
    done: concurrent.futures.Future[None] = concurrent.futures.Future()

    def body() -> None:
        if not done.set_running_or_notify_cancel():
            return
        try:
            act()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    try:
        loop.call_soon_threadsafe(body)
    except RuntimeError:
        return  # closed
    try:
        done.result(LOOP_SECONDS)
    except concurrent.futures.TimeoutError:
        done.cancel()
