"""Who may talk to the viewer's server: host names, origins and an optional password, checked before viser is asked.

viser itself serves its page and its websocket to whoever connects, from whatever web page. A page the user happens to
have open elsewhere could therefore drive a viewer on localhost. The access refuses that: the ``Host`` must be a name of
this machine (a rebound DNS name is not), and an ``Origin``, which browsers always send with a websocket, must be the
page that this server itself served: the ``Host`` asked for, or, behind a proxy that puts its own address into ``Host``,
a name the server was told about. With a password nothing is served but the login form until the cookie is set.
"""

from __future__ import annotations

import asyncio
import hmac
import http
import ipaddress
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from splatseg.core.errors import SplatsegError

FAILED_LOGIN_SECONDS = (
    1.0  # logins are checked one after the other, so this bounds guesses a second for everyone together
)

LOGIN_PAGE = """<!doctype html><html><head><meta charset="utf-8"><title>splatseg</title><style>
body{font:16px system-ui;display:grid;place-items:center;height:90vh;background:#f4f4f5;color:#222}
form{background:#fff;padding:2em;border-radius:8px;box-shadow:0 1px 6px #0003}
input,button{font:inherit;padding:.4em .6em}p{min-height:1.2em;color:#b00}</style></head><body>
<form id="f"><h3>splatseg viewer</h3><input id="p" type="password" autofocus placeholder="password">
<button>open</button><p id="m"></p></form><script>
f.onsubmit=async e=>{e.preventDefault();m.textContent="";
const r=await fetch("/login",{headers:{"X-Splatseg-Password":encodeURIComponent(p.value)}});
if(r.ok)location.replace("/");else m.textContent="wrong password"}</script></body></html>"""


@dataclass(frozen=True)
class Verdict:
    """What to answer: ``status`` None lets the request through to viser."""

    status: http.HTTPStatus | None
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    failed_login: bool = False


ALLOW = Verdict(None)


def is_loopback(host: str) -> bool:
    """Whether ``host`` (a name or an address to bind) can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _split_host(value: str) -> tuple[str, int | None]:
    """Lower-case host without brackets, and port, of a ``Host`` header; ("", None) if it cannot be parsed."""
    try:
        parts = urlsplit(f"//{value.strip()}")
        return (parts.hostname or "").lower(), parts.port
    except ValueError:
        return "", None


def _check_allowed(value: str) -> tuple[str, int | None]:
    """Name and port of ``name`` or ``name:port``."""
    name, port = _split_host(value)
    if not name or any(c in value for c in "/@?# "):
        raise SplatsegError(f"--allow-host: expected NAME or NAME:PORT, found {value!r}")
    return name, port


class AccessCheck:
    """Decides on requests to a server bound to ``host``.

    Args:
        host: what the server is bound to.
        port: its port; names the cookie, since browsers do not keep cookies of two ports apart.
        password: asked for when given.
        allowed_hosts: further names, ``name`` or ``name:port``, under which browsers reach the server (a reverse proxy,
            a name of the LAN). Without a port an ``Origin`` of that name has its scheme's own.

    Raises:
        SplatsegError: an allowed host that is no name, or has a scheme or a path.
    """

    def __init__(self, host: str, port: int, password: str | None = None, allowed_hosts: tuple[str, ...] = ()) -> None:
        self.local = is_loopback(host)
        self.password = password
        self.cookie_name = f"splatseg-{port}"
        self._session = secrets.token_urlsafe(32)
        self._allowed = frozenset(_check_allowed(value) for value in allowed_hosts)
        names = {"localhost", host, *(name for name, _ in self._allowed)}
        if not self.local:
            names |= {socket.gethostname(), socket.getfqdn(), f"{socket.gethostname()}.local"}
        self.names = {name.lower() for name in names}
        self._login_lock = asyncio.Lock()

    def _known_host(self, name: str) -> bool:
        """A name of this machine. Addresses cannot be rebound by DNS; on a local server they must be loopback ones."""
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.local

    def _same_origin(self, origin: str, host: str) -> bool:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            return False
        default = 443 if parts.scheme == "https" else 80
        origin_name, origin_port = _split_host(parts.netloc)
        host_name, host_port = _split_host(host)
        if not origin_name or "@" in parts.netloc:
            return False
        page = (origin_name, origin_port or default)
        return page == (host_name, host_port or default) or page in {(n, p or default) for n, p in self._allowed}

    def decide(self, path: str, headers: Mapping[str, str]) -> Verdict:
        """Verdict on a GET of ``path`` (with its query). ``headers`` must look names up without regard to case."""
        host = headers.get("Host", "")
        if not self._known_host(_split_host(host)[0]):
            return Verdict(
                http.HTTPStatus.FORBIDDEN, f"Host {host!r} is not a name of this server (see --allow-host).\n"
            )
        origin = headers.get("Origin")
        if origin is not None and not self._same_origin(origin, host):
            return Verdict(
                http.HTTPStatus.FORBIDDEN, f"Origin {origin!r} may not use this server (see --allow-host).\n"
            )
        if self.password is None or self._has_cookie(headers.get("Cookie", "")):
            return ALLOW
        return self._login(path, headers)

    def _has_cookie(self, cookies: str) -> bool:
        pairs = (pair.strip().partition("=") for pair in cookies.split(";"))
        return any(
            n == self.cookie_name and hmac.compare_digest(v.encode(), self._session.encode()) for n, _, v in pairs
        )

    def _login(self, path: str, headers: Mapping[str, str]) -> Verdict:
        parts = urlsplit(path)
        query = parse_qs(parts.query)
        if parts.path == "/login":
            given, target = unquote(headers.get("X-Splatseg-Password", "")), http.HTTPStatus.NO_CONTENT
        elif "token" in query:
            given, target = query["token"][0], http.HTTPStatus.SEE_OTHER
        elif headers.get("Upgrade", "").lower() == "websocket":
            return Verdict(http.HTTPStatus.UNAUTHORIZED, "Log in first.\n")
        else:
            return Verdict(http.HTTPStatus.OK, LOGIN_PAGE, (("Content-Type", "text/html; charset=utf-8"),))
        assert self.password is not None
        if not hmac.compare_digest(given.encode(), self.password.encode()):
            return Verdict(http.HTTPStatus.FORBIDDEN, "Wrong password or token.\n", failed_login=True)
        cookie = f"{self.cookie_name}={self._session}; Path=/; HttpOnly; SameSite=Strict"
        return Verdict(target, "", (("Set-Cookie", cookie), ("Location", "/")))

    async def check(self, path: str, headers: Mapping[str, str]) -> Verdict:
        """:meth:`decide`, with attempts to log in made slow."""
        login_path = urlsplit(path).path == "/login" or "token=" in urlsplit(path).query
        if self.password is None or not login_path:
            return self.decide(path, headers)
        async with self._login_lock:
            verdict = self.decide(path, headers)
            if verdict.failed_login:
                await asyncio.sleep(FAILED_LOGIN_SECONDS)
            return verdict
