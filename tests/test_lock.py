"""The one lock: refused with the holder's id, free after a kill, taken again, waited for."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from splatseg.core.errors import SplatsegError
from splatseg.io.lock import Lock

HOLDER = """
import sys, time
from pathlib import Path
from splatseg.io.lock import Lock
with Lock(Path(sys.argv[1]), "a free folder"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_holder_is_named_and_a_kill_frees_it(tmp_path: Path) -> None:
    """Twice: what asked in vain must not have erased who holds it; what the dead one left is taken over."""
    path = tmp_path / "deep" / "lock"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    try:
        for _ in range(2):
            with pytest.raises(SplatsegError, match=rf"^{path}: expected a free folder, .* process {process.pid}$"):
                Lock(path, "a free folder").take()
    finally:
        process.kill()
        process.communicate()
    for _ in range(2):
        with Lock(path, "a free folder"), pytest.raises(SplatsegError, match="in use by process"):
            Lock(path, "a free folder").take()
        assert not path.with_name("lock.pid").exists()


def test_freed_by_another_thread_and_twice(tmp_path: Path) -> None:
    """As a viewer's is, which is closed wherever the server ends."""
    lock = Lock(tmp_path / "lock", "a free folder")
    lock.free()  # was not held
    lock.take()
    closing = threading.Thread(target=lock.free)
    closing.start()
    closing.join()
    lock.free()
    with Lock(tmp_path / "lock", "a free folder"):
        pass


def test_waiting_ends_when_the_holder_does(tmp_path: Path) -> None:
    order: list[str] = []
    first = Lock(tmp_path / "lock", "")
    first.take()

    def second() -> None:
        with Lock(tmp_path / "lock", "", wait=True):
            order.append("second")

    waiting = threading.Thread(target=second)
    waiting.start()
    order.append("first")
    first.free()
    waiting.join(timeout=30)
    assert order == ["first", "second"]


def test_a_place_for_no_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SplatsegError, match="expected a lock file to be writable"):
        Lock(tmp_path / "file" / "lock", "a free folder").take()
    (tmp_path / "folder").mkdir()
    with pytest.raises(SplatsegError, match="expected a lock file to be writable"):
        Lock(tmp_path / "folder", "a free folder").take()
