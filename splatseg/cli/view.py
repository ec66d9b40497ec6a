"""Select things in a fitted splat by clicking, in the browser.

    splatseg view RUN                   prints the address to open; Ctrl-C stops
    splatseg view RUN --port 0          on any free port

Only browsers that open the printed address, which holds a random token, are let in.
"""

from __future__ import annotations

import getpass
import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated

import tyro

from splatseg.cli.endings import fail, parse
from splatseg.cli.options import PathOrNone
from splatseg.core.errors import SplatsegError
from splatseg.session import Workspace

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True)
class Arguments:
    """Serve the viewer of a run until Ctrl-C or SIGTERM."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, made by 'splatseg fit'."""
    scene: PathOrNone = None
    """Where the capture lies now, if it was moved after the fit."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int = 8080
    """Port to listen on; 0 takes any free one."""
    password: Flag = False
    """Ask browsers for a password instead: $SPLATSEG_PASSWORD, or typed in when the viewer starts."""
    token: Flag = False
    """What holds anyway: let in only browsers that open the printed address."""
    no_token: Flag = False
    """Let in whoever reaches the address: on this machine all its users."""
    allow_host: tuple[str, ...] = ()
    """Further names, NAME or NAME:PORT, under which browsers reach the viewer (a proxy, a name of the network)."""
    draw_at_most: int = 300_000
    """Larger scenes are drawn as a sample of so many Gaussians; selection works on all."""
    no_check_memory: Flag = False
    """Open the run even where less memory is free than it is expected to take."""


def secret(arguments: Arguments) -> str | None:
    """The password, or a new token; None where no login is wanted."""
    wanted = [name for name in ("password", "token", "no_token") if getattr(arguments, name)]
    if len(wanted) > 1:
        names = "/".join(f"--{name.replace('_', '-')}" for name in wanted)
        raise SplatsegError(f"{names}: expected one of the two, found both")
    if arguments.no_token:
        return None
    if not arguments.password:
        return secrets.token_urlsafe(24)
    given = os.environ.get("SPLATSEG_PASSWORD") or (getpass.getpass("viewer password: ") if sys.stdin.isatty() else "")
    if not given:
        raise SplatsegError("--password: expected one in $SPLATSEG_PASSWORD or typed in, found none")
    return given


class Ended(BaseException):
    """A signal asked the process to end; not an error of any code that it comes upon."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def ended_in_one_line() -> Iterator[None]:
    """Within: SIGTERM (a service manager, ``kill``) and SIGHUP (the terminal is gone) end as Ctrl-C does, with what is
    to be saved saved, and with the exit code of a process so ended. A second signal ends at once."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Ended(number)

    hangup = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # Windows has none
    for number in (signal.SIGTERM, *hangup):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, end)
    try:
        yield
    except Ended as ending:
        fail(f"ended by {signal.Signals(ending.number).name}", 128 + ending.number)


@ended_in_one_line()
def serve(arguments: Arguments) -> None:
    """Serve the viewer until a signal ends it."""
    from splatseg.viewer import ServerConfig, Viewer, ViewerConfig
    from splatseg.viewer.access import is_loopback

    if arguments.draw_at_most < 1:
        raise SplatsegError(f"--draw-at-most: expected at least 1, found {arguments.draw_at_most}")
    logging.basicConfig(format="%(message)s")
    password = secret(arguments)
    workspace = Workspace.open(arguments.run, arguments.scene, not arguments.no_check_memory)
    server = ServerConfig(arguments.host, arguments.port, password, arguments.allow_host)
    viewer = Viewer(workspace, ViewerConfig(server, arguments.draw_at_most))
    try:
        if not is_loopback(arguments.host) and password is None:
            print(
                f"warning: {arguments.host} is open to other machines and there is no login; leave --no-token out",
                file=sys.stderr,
            )
        name = "localhost" if arguments.host in ("0.0.0.0", "::") else arguments.host
        name = f"[{name}]" if ":" in name else name
        query = "/" if arguments.password or arguments.no_token else f"/?token={password}"
        if workspace.restored:
            print(workspace.restored)
        print(f"{viewer.template.statement}\nopen http://{name}:{viewer.port}{query}  (Ctrl-C stops)", flush=True)
        viewer.wait()
    finally:
        viewer.close()


def main() -> None:
    serve(parse(Arguments, description=__doc__))
