"""Who gets an answer from the viewer: host names, origins, passwords, ports. The server is a real one."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import socket
import threading
from collections.abc import Iterator
from urllib.parse import quote

import pytest

pytest.importorskip("viser", reason="the viewer's extra is not installed")

import websockets.asyncio.client
import websockets.exceptions

from splatseg.core.errors import SplatsegError
from splatseg.viewer.access import AccessCheck, is_loopback
from splatseg.viewer.seen import Fetches
from splatseg.viewer.server import ServerConfig, bind, open_server

PASSWORD = "open sesame ü"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = open_server(ServerConfig(port=0))
    yield server.get_port()
    server.stop()


@pytest.fixture(scope="module")
def locked_port() -> Iterator[int]:
    server = open_server(ServerConfig(port=0, password=PASSWORD))
    yield server.get_port()
    server.stop()


def get(port: int, path: str = "/", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    return connection.getresponse()


def connects(port: int, origin: str | None, **headers: str) -> bool:
    """Whether a websocket handshake from a page of ``origin`` succeeds."""

    async def attempt() -> bool:
        try:
            async with websockets.asyncio.client.connect(
                f"ws://127.0.0.1:{port}",
                origin=origin,
                additional_headers=headers,
                proxy=None,  # type: ignore[arg-type]
                close_timeout=0.2,  # a proxy that is busy one way at a time answers no closing handshake
            ):
                return True
        except websockets.exceptions.InvalidStatus:
            return False

    return asyncio.run(attempt())


def test_the_page_is_served_and_cannot_be_framed(port: int) -> None:
    response = get(port)
    assert response.status == 200 and b"<html" in response.read()[:2000].lower()
    assert response.headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize(
    ("origin", "let_in"),
    [
        (None, True),  # no browser
        ("http://127.0.0.1:{port}", True),
        ("http://localhost:{port}", False),  # not the page that was asked for: the host is 127.0.0.1
        ("http://127.0.0.1:1", False),
        ("http://127.0.0.1", False),
        ("https://evil.example", False),
        ("http://127.0.0.1:{port}.evil.example", False),
        ("http://evil.example@127.0.0.1:1", False),
        ("null", False),
    ],
)
def test_foreign_origins_are_refused(port: int, origin: str | None, let_in: bool) -> None:
    assert connects(port, None if origin is None else origin.format(port=port)) is let_in


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.7", "", "[", "127.0.0.1.nip.io"])
def test_foreign_host_names_are_refused_against_dns_rebinding(port: int, host: str) -> None:
    assert get(port, Host=host).status == 403


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1:80", "[::1]:8080", "LOCALHOST"])
def test_names_of_this_machine_are_served_also_through_a_tunnel(port: int, host: str) -> None:
    assert get(port, Host=host).status == 200


def test_a_rebound_name_with_its_own_origin_is_refused(port: int) -> None:
    response = get(port, Host="evil.example", Origin="http://evil.example", Upgrade="websocket")
    assert response.status == 403


def test_an_open_server_knows_addresses_and_allowed_names_only() -> None:
    gate = AccessCheck("0.0.0.0", 8080, allowed_hosts=("viewer.lab",))
    for host, served in (
        ("192.168.1.5:8080", True),
        ("viewer.lab", True),
        (socket.gethostname(), True),
        ("x.y", False),
    ):
        assert (gate.decide("/", {"Host": host}).status is None) is served


class RewritingProxy:
    """A reverse proxy that asks the server under the server's own address, as nginx does unless told otherwise."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                browser, _ = self._listening.accept()
                threading.Thread(target=self._connect, args=(browser,), daemon=True).start()

    def _connect(self, browser: socket.socket) -> None:
        with contextlib.suppress(OSError), browser, socket.create_connection(("127.0.0.1", self._target)) as server:
            head = b""
            while b"\r\n\r\n" not in head:
                head += browser.recv(4096)
            server.sendall(re.sub(rb"(?i)\r\nhost: [^\r]*", b"\r\nHost: 127.0.0.1:%d" % self._target, head))
            threading.Thread(target=self._copy, args=(browser, server), daemon=True).start()
            self._copy(server, browser)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def close(self) -> None:
        self._listening.close()


@pytest.mark.parametrize(
    ("allowed", "origin", "let_in"),
    [
        (("viewer.lab",), "https://viewer.lab", True),
        (("viewer.lab",), "http://viewer.lab", True),
        (("other.lab", "Viewer.Lab:8443"), "https://viewer.lab:8443", True),
        ((), "https://viewer.lab", False),
        (("viewer.lab",), "https://viewer.lab:8443", False),  # another service of that machine
        (("viewer.lab:8443",), "https://viewer.lab", False),
        (("viewer.lab",), "https://evil.example", False),
        (("viewer.lab",), "https://viewer.lab.evil.example", False),
        (("viewer.lab",), "https://viewer.lab@evil.example", False),
        (("viewer.lab",), "null", False),
    ],
)
def test_a_proxy_that_rewrites_the_host(allowed: tuple[str, ...], origin: str, let_in: bool) -> None:
    """On f581d69 the websocket was refused whatever was allowed: its Origin is not the Host that the proxy asks for."""
    server = open_server(ServerConfig(port=0, password=PASSWORD, allowed_hosts=allowed))
    proxy = RewritingProxy(server.get_port())
    try:
        for _ in range(2):
            answer = get(proxy.port, "/?token=open%20sesame%20%C3%BC", Host="viewer.lab")
            assert answer.status == 303
            cookie = answer.headers["Set-Cookie"].split(";")[0]
            assert connects(proxy.port, origin, Cookie=cookie) is let_in
            assert not connects(proxy.port, origin)  # the login is asked for all the same
    finally:
        proxy.close()
        server.stop()


@pytest.mark.parametrize("bad", ["", "http://viewer.lab", "viewer.lab/x", "a b", "viewer.lab:x", "me@viewer.lab"])
def test_allowed_hosts_are_names(bad: str) -> None:
    with pytest.raises(SplatsegError, match=r"^--allow-host: expected NAME or NAME:PORT, found "):
        open_server(ServerConfig(port=0, allowed_hosts=(bad,)))


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("lab", False)]
)
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_nothing_is_served_before_the_login(locked_port: int) -> None:
    page = get(locked_port).read()
    assert b"password" in page and len(page) < 3000  # the form, not viser's page
    assert b"password" in get(locked_port, "/index.html").read()
    assert not connects(locked_port, None)
    assert not connects(locked_port, f"http://127.0.0.1:{locked_port}")
    assert not connects(locked_port, None, Cookie=f"splatseg-{locked_port}=guess")


def test_the_right_password_opens_page_and_websocket(locked_port: int) -> None:
    quoted = "open%20sesame%20%C3%BC"
    for response in (
        get(locked_port, "/login", X_Splatseg_Password=quoted),
        get(locked_port, f"/?token={quoted}"),
    ):
        assert response.status in (204, 303)
        cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "sesame" not in cookie
        pair = cookie.split(";")[0]
        assert len(get(locked_port, Cookie=pair).read()) > 3000
        assert connects(locked_port, f"http://127.0.0.1:{locked_port}", Cookie=f"other=1; {pair}")
        assert not connects(locked_port, "http://evil.example", Cookie=pair)


def test_wrong_passwords_are_slow(locked_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slept = []
    monkeypatch.setattr("splatseg.viewer.access.FAILED_LOGIN_SECONDS", 0.01)
    gate = AccessCheck("127.0.0.1", 1, "right")
    original = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await original(0)

    monkeypatch.setattr("splatseg.viewer.access.asyncio.sleep", sleep)

    async def attempts() -> list[int | None]:
        headers = [{"Host": "localhost", "X-Splatseg-Password": p} for p in ("wrong", "", "right")]
        return [(await gate.check("/login", h)).status for h in headers]

    assert asyncio.run(attempts()) == [403, 403, 204]
    assert slept == [0.01, 0.01]


def test_a_busy_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(SplatsegError, match=f"--port: {number} is already in use"):
            open_server(ServerConfig(port=number))


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("203.0.113.7", 0), ("127.0.0.1", 70000)])
def test_impossible_addresses_are_named(host: str, port: int) -> None:
    with pytest.raises(SplatsegError, match=r"--(host|port):"):
        bind(host, port)


def test_clients_cannot_publish_the_viewer_on_the_internet() -> None:
    from viser import _messages

    server = open_server(ServerConfig(port=0))
    try:
        assert _messages.ShareUrlRequest not in server._websock_server._incoming_handlers
    finally:
        server.stop()


def test_what_a_page_fetches_is_told_once_and_only_of_those_who_are_let_in() -> None:
    told: list[str] = []
    fetches = Fetches()
    server = open_server(ServerConfig(port=0, password=PASSWORD), fetches.take)
    port = server.get_port()
    try:
        cookie = get(port, "/login", X_Splatseg_Password=quote(PASSWORD)).headers["Set-Cookie"].split(";")[0]
        for number in range(2):
            path = "/" + fetches.add(lambda number=number: told.append(str(number)))
            assert get(port, path).status == 200 and len(told) == number  # the login page
            assert get(port, path, Cookie=cookie, Host="evil.example").status == 403 and len(told) == number
            assert get(port, path, Cookie=cookie).status == 204 and told[number:] == [str(number)]
            assert get(port, path, Cookie=cookie).status == 204 and len(told) == number + 1  # again: no error, no news
        gone = fetches.add(lambda: told.append("gone"))
        fetches.forget(gone)
        assert get(port, "/" + gone, Cookie=cookie).status == 204 and told == ["0", "1"]
    finally:
        server.stop()
