"""Open a viser server on exactly the address asked for, behind the :class:`~splatseg.viewer.access.AccessCheck`."""

from __future__ import annotations

import contextlib
import errno
import http
import inspect
import io
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from splatseg.core.errors import SplatsegError, require_extra
from splatseg.viewer.access import AccessCheck
from splatseg.viewer.events import written_by_threads

try:
    import viser
    import viser.infra
    import websockets.asyncio.server
    from viser import _messages
    from websockets.datastructures import Headers
    from websockets.http11 import Request, Response
except ImportError:  # pragma: no cover - the extra is part of the test dependencies
    raise require_extra("viser", "viewer") from None

_construction = threading.Lock()


@dataclass(frozen=True)
class ServerConfig:
    """Where to listen and for whom.

    Attributes:
        host: name or address to bind; other machines reach the viewer only if it is not a loopback one.
        port: 0 lets the system choose.
        password: None for no login.
        allowed_hosts: further names, ``name`` or ``name:port``, under which browsers reach the server.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    password: str | None = None
    allowed_hosts: tuple[str, ...] = ()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket on exactly ``host``:``port``.

    Raises:
        SplatsegError: the port is taken, forbidden or out of range, or the host is not one of this machine.
    """
    if not 0 <= port <= 65535:
        raise SplatsegError(f"--port: expected 0..65535, found {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except socket.gaierror as error:
        raise SplatsegError(
            f"--host: expected a name or address of this machine, found '{host}' ({error.strerror})"
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SplatsegError(
                f"--port: {port} is already in use on {host}; choose another (0: any free one)"
            ) from None
        reason = error.strerror or str(error)
        raise SplatsegError(f"--host/--port: cannot listen on {host}:{port} ({reason})") from None


@contextlib.contextmanager
def _checked(sock: socket.socket, access: AccessCheck, heard: Callable[[str], bool]) -> Iterator[list[bool]]:
    """Within: servers that the websockets library starts listen on ``sock`` and ask ``access`` first, then ``heard``.

    viser 1.1 has no setting for either and tries the next thousand ports when one is busy. The list that is yielded
    tells whether the access was put in place.
    """
    original = websockets.asyncio.server.serve
    used: list[bool] = []

    def serve(handler: Any, host: Any, port: Any, **options: Any) -> Any:
        del host, port
        inner = options.pop("process_request", None)

        async def process(connection: Any, request: Request) -> Response | None:
            verdict = await access.check(request.path, request.headers)
            if verdict.status is not None:
                return _response(verdict.status, verdict.body, verdict.headers)
            if heard(request.path):
                return _response(http.HTTPStatus.NO_CONTENT, "", ())
            response = inner(connection, request) if inner is not None else None
            if inspect.isawaitable(response):
                response = await response
            if response is not None:
                response.headers["X-Frame-Options"] = "DENY"
            return response

        used.append(True)
        return original(handler, sock=sock, process_request=process, **options)

    with _construction:
        websockets.asyncio.server.serve = serve  # type: ignore[assignment, misc]
        try:
            yield used
        finally:
            websockets.asyncio.server.serve = original  # type: ignore[misc]


def _response(status: Any, body: str, extra: tuple[tuple[str, str], ...]) -> Response:
    data = body.encode()
    headers = Headers([("Content-Length", str(len(data))), ("Cache-Control", "no-store"), ("X-Frame-Options", "DENY")])
    for name, value in extra:
        headers[name] = value
    headers.setdefault("Content-Type", "text/plain; charset=utf-8")
    return Response(int(status), status.phrase, headers, data)


def open_server(config: ServerConfig, heard: Callable[[str], bool] = lambda path: False) -> viser.ViserServer:
    """A running viser server behind the check. Its share-URL requests, which would publish it on the internet, are off.
    ``heard`` is called in its event loop with the path of each request that the check lets through, and says whether
    that was all: then nothing is answered.

    Raises:
        SplatsegError: the address cannot be had, or this viser version cannot be guarded.
    """
    sock = bind(config.host, config.port)
    port = sock.getsockname()[1]
    try:
        access = AccessCheck(config.host, port, config.password, config.allowed_hosts)
    except SplatsegError:
        sock.close()
        raise
    # viser prints a banner of its own, which would name an address without the token.
    with _checked(sock, access, heard) as used, contextlib.redirect_stdout(io.StringIO()):
        server = viser.ViserServer(host=config.host, port=port, verbose=False)
    if not used:
        server.stop()
        sock.close()
        raise SplatsegError(f"viser: expected a version whose server can be guarded (1.1), found {viser.__version__}")
    for message in (_messages.ShareUrlRequest, _messages.ShareUrlDisconnect):
        server._websock_server.unregister_handler(message)
    written_by_threads(server._websock_server)
    return server
