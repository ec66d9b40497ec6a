"""Checkpoints: found, downloaded, taken up where a download stopped, and refused with one line that says what to do."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from listener import Listener

from splatseg.core.errors import SplatsegError
from splatseg.core.progress import Cancelled, Progress
from splatseg.masks.sam import weights as checkpoints
from splatseg.masks.sam.weights import CHECKPOINTS, Checkpoint, fetch, find_checkpoint

CONTENT = bytes(range(256)) * 5000  # 1.28 MB: more than one block


@dataclass
class Server:
    """A file server that can break off, ignore ranges, fail or send something else."""

    url: str = ""
    content: bytes = CONTENT
    status: int = 0  # answer with this error instead
    break_after: list[int] = field(default_factory=list)  # bytes sent by the next answers before the line drops
    ranges: bool = True
    requests: list[str | None] = field(default_factory=list)  # the Range header of each request


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.requests.append(asked)
            if state.status:
                self.send_error(state.status)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
            body = state.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.break_after.pop(0)] if state.break_after else body)

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_address[1]}/weights.pth"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(autouse=True)
def online_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPLATSEG_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(checkpoints.time, "sleep", lambda seconds: None)


def official(server: Server) -> Checkpoint:
    return Checkpoint("weights.pth", server.url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def left_in(folder: Path) -> list[str]:
    """What a download leaves; the lock, which others may be waiting for, stays, without its holder's id."""
    names = sorted(path.name for path in folder.iterdir())
    assert names[0] == ".weights.pth.lock"
    return names[1:]


def test_a_download_that_is_cancelled_is_taken_up(server: Server, tmp_path: Path) -> None:
    """Twice: what came before the first and the second stop is not asked for again."""
    for _ in range(2):
        with pytest.raises(Cancelled):
            fetch(official(server), tmp_path, Listener(stop_at=1))
    assert not (tmp_path / "weights.pth").exists()
    assert fetch(official(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, f"bytes={checkpoints.BLOCK}-"]


def test_download(server: Server, tmp_path: Path) -> None:
    """A folder that does not exist yet; the second call finds the file and asks nobody."""
    listener = Listener()
    path = fetch(official(server), tmp_path / "new" / "cache", listener)
    assert path.read_bytes() == CONTENT
    megabytes = len(CONTENT) // 1_000_000
    assert listener.heard[-1] == Progress("weights", megabytes, megabytes, "MB") and listener.finished == ["weights"]
    assert left_in(path.parent) == ["weights.pth"]
    assert fetch(official(server), tmp_path / "new" / "cache") == path
    assert len(server.requests) == 1


def test_resumes_after_broken_lines(server: Server, tmp_path: Path) -> None:
    """The connection drops twice within one call: the rest is asked for, not the whole."""
    server.break_after = [300_000, 200_000]
    assert fetch(official(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-", "bytes=500000-"]


def test_resumes_an_earlier_run(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(CONTENT[:1000])
    assert fetch(official(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]


@pytest.mark.parametrize("done", [len(CONTENT), len(CONTENT) + 1])
def test_part_complete_or_too_long(server: Server, tmp_path: Path, done: int) -> None:
    """Killed between the last byte and the rename: nothing is asked. A part of something else: from the start."""
    (tmp_path / "weights.pth.part").write_bytes((CONTENT + b"x")[:done])
    assert fetch(official(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == ([] if done == len(CONTENT) else [None])


def test_server_without_ranges(server: Server, tmp_path: Path) -> None:
    """It answers 200 with the whole file: appending that to the part would be wrong."""
    server.ranges = False
    (tmp_path / "weights.pth.part").write_bytes(b"\0" * 1000)
    assert fetch(official(server), tmp_path).read_bytes() == CONTENT


def test_wrong_hash(server: Server, tmp_path: Path) -> None:
    """Same size, other content: refused and deleted, so that the next call does not resume from it."""
    server.content = CONTENT[::-1]
    with pytest.raises(SplatsegError, match="expected SHA-256") as error:
        fetch(official(server), tmp_path)
    assert hashlib.sha256(server.content).hexdigest() in str(error.value)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(("size", "reason"), [(-5, "the server sends more"), (5, "the connection ended")])
def test_wrong_size(server: Server, tmp_path: Path, size: int, reason: str) -> None:
    checkpoint = Checkpoint("weights.pth", server.url, len(CONTENT) + size, "0" * 64)
    with pytest.raises(SplatsegError, match=reason):
        fetch(checkpoint, tmp_path)
    assert not (tmp_path / "weights.pth").exists()


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (503, checkpoints.ATTEMPTS)])
def test_http_errors(server: Server, tmp_path: Path, status: int, asked: int) -> None:
    """A busy server is asked again, a missing file is not."""
    server.status = status
    with pytest.raises(SplatsegError, match=f"HTTP {status}"):
        fetch(official(server), tmp_path)
    assert len(server.requests) == asked


@pytest.mark.parametrize("switch", [False, True])
def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: bool) -> None:
    """Nobody answers, or the user said so: one line with the file, where to get it and where to put it."""
    url = "http://127.0.0.1:9/weights.pth"
    if switch:
        monkeypatch.setenv("SPLATSEG_OFFLINE", "1")
    with pytest.raises(SplatsegError) as error:
        fetch(Checkpoint("weights.pth", url, 10, "0" * 64), tmp_path)
    message = str(error.value)
    assert "\n" not in message
    assert all(
        part in message for part in ("weights.pth: not downloaded", url, str(tmp_path / "weights.pth"), "10 bytes")
    )
    assert ("SPLATSEG_OFFLINE" in message) == switch
    assert left_in(tmp_path) == []  # no empty file is left behind


def test_wrong_hash_while_others_wait(server: Server, tmp_path: Path) -> None:
    """The one that was first deletes its download: the others must not go on with a file that has no name any more."""
    server.content = CONTENT[::-1]
    messages: list[str] = []

    def ask() -> None:
        try:
            fetch(official(server), tmp_path)
        except SplatsegError as error:
            messages.append(str(error))

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(messages) == 4
    assert all("expected SHA-256" in message for message in messages)


def test_other_process_was_faster(server: Server, tmp_path: Path) -> None:
    """Eight ranks start on an empty cache: one download, eight answers."""
    server.break_after = [1000]
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(official(server), tmp_path)), daemon=True) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [tmp_path / "weights.pth"] * 8
    assert len(server.requests) == 2
    assert left_in(tmp_path) == ["weights.pth"]


def test_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By path; in the cache; a cached file of another size is named, not used."""
    monkeypatch.setenv("SPLATSEG_CACHE", str(tmp_path))
    mine = tmp_path / "mine.pth"
    with pytest.raises(SplatsegError, match=r"mine.pth: expected a checkpoint file of vit_b, found none"):
        find_checkpoint("vit_b", mine)
    mine.write_bytes(b"x")
    assert find_checkpoint("vit_b", mine) == mine
    cached = tmp_path / CHECKPOINTS["vit_b"].filename
    with cached.open("wb") as file:
        file.truncate(CHECKPOINTS["vit_b"].size)  # sparse: takes no disk
    assert find_checkpoint("vit_b") == cached
    cached.write_bytes(b"half")
    with pytest.raises(SplatsegError, match=r"expected 375042383 bytes .* found 4; delete it"):
        find_checkpoint("vit_b")


def test_official_records() -> None:
    """One record for each model of the configuration, well-formed."""
    from splatseg.masks.sam.config import MODELS

    assert set(CHECKPOINTS) == set(MODELS)
    assert (
        len({c.sha256 for c in CHECKPOINTS.values()}) == len({c.filename for c in CHECKPOINTS.values()}) == len(MODELS)
    )
    for checkpoint in CHECKPOINTS.values():
        assert len(bytes.fromhex(checkpoint.sha256)) == 32
        assert checkpoint.url == f"{checkpoint.url.rpartition('/')[0]}/{checkpoint.filename}"
        assert checkpoint.size > 40_000_000
