"""Select things in a fitted splat by clicking, in the browser: ``python scripts/view.py RUN``."""

from __future__ import annotations

import getpass
import logging
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import _installed  # noqa: F401 (first: without splatseg it says so)
import tyro
from _cli import parse, run

from splatseg.errors import SplatsegError
from splatseg.session import Workspace


@dataclass(frozen=True)
class Arguments:
    """Serve the viewer of a run until Ctrl-C."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder made by scripts/fit.py."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int = 8080
    """Port to listen on; 0 takes any free one."""
    password: bool = False
    """Ask browsers for a password: $SPLATSEG_PASSWORD, or typed in when the viewer starts."""
    token: bool = False
    """Let in only browsers that open the printed address, which holds a random token."""
    allow_host: tuple[str, ...] = ()
    """Further host names under which browsers reach the viewer (a proxy, a name of the local network)."""
    draw_at_most: int = 300_000
    """Larger scenes are drawn as a sample of so many Gaussians; selection works on all."""


def secret(arguments: Arguments) -> str | None:
    """The password or token asked for, if any."""
    if arguments.password and arguments.token:
        raise SplatsegError("--password/--token: expected one of the two, found both")
    if arguments.token:
        return secrets.token_urlsafe(24)
    if not arguments.password:
        return None
    given = os.environ.get("SPLATSEG_PASSWORD") or (getpass.getpass("viewer password: ") if sys.stdin.isatty() else "")
    if not given:
        raise SplatsegError("--password: expected one in $SPLATSEG_PASSWORD or typed in, found none")
    return given


def main(arguments: Arguments) -> None:
    from splatseg.viewer import ServerConfig, Viewer, ViewerConfig
    from splatseg.viewer.gate import is_loopback

    if arguments.draw_at_most < 1:
        raise SplatsegError(f"--draw-at-most: expected at least 1, found {arguments.draw_at_most}")
    logging.basicConfig(format="%(message)s")
    password = secret(arguments)
    workspace = Workspace.open(arguments.run)
    server = ServerConfig(arguments.host, arguments.port, password, arguments.allow_host)
    viewer = Viewer(workspace, ViewerConfig(server, arguments.draw_at_most))
    if not is_loopback(arguments.host) and password is None:
        print(
            f"warning: {arguments.host} is open to other machines and there is no login; add --password or --token",
            file=sys.stderr,
        )
    name = "localhost" if arguments.host in ("0.0.0.0", "::") else arguments.host
    name = f"[{name}]" if ":" in name else name
    query = f"/?token={password}" if arguments.token else "/"
    if workspace.restored:
        print(workspace.restored)
    print(f"{viewer.template.statement}\nopen http://{name}:{viewer.port}{query}  (Ctrl-C stops)", flush=True)
    viewer.run_forever()


if __name__ == "__main__":
    run(lambda: main(parse(Arguments, description=__doc__)))
