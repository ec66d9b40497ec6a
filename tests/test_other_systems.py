"""The viewer and the commands import where Linux's modules and signals are not: macOS, Windows.

Nobody builds or tests splatseg there; a person may still open a run or read a command's help. The systems are played in
a fresh interpreter: what is not there is taken away from splatseg's own imports, others' stay as they are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
WITHOUT = """
import builtins, os, signal, sys
BLOCKED = set(sys.argv[1].split(","))
real = builtins.__import__
def without(name, globals=None, locals=None, fromlist=(), level=0):
    if name in BLOCKED and (globals or {}).get("__name__", "").startswith("splatseg"):
        raise ImportError(f"no module named {name} on this system", name=name)
    return real(name, globals, locals, fromlist, level)
import torch, viser, pycolmap  # they know their systems themselves
builtins.__import__ = without
for name in ("SIGHUP", "SIGKILL", "SIGALRM", "SIGBUS"):
    delattr(signal, name)
for name in ("fork", "sysconf", "sched_getaffinity", "getuid"):
    delattr(os, name)
"""
EVERYTHING = """
import importlib, pkgutil, splatseg
for room in ("cli", "session", "viewer", "core", "io"):
    for found in pkgutil.walk_packages([f"{splatseg.__path__[0]}/{room}"], f"splatseg.{room}."):
        if found.name not in ("splatseg.cli.__main__", "splatseg.io.colmap_worker"):
            importlib.import_module(found.name)
from splatseg.cli.command import main
sys.argv = ["splatseg", "view", "--help"]
main()
"""
WRITES = """
from pathlib import Path
from splatseg.core import machine
from splatseg.core.atomic import remove_leftovers, temporary_name, write_text
from splatseg.cli.view import ended_in_one_line
from splatseg.masks.workers import affordable
assert machine.peak_memory() is None and machine.file_size_limit() is None
folder = Path(sys.argv[2])
for text in ("one", "two"):
    write_text(folder / "a.txt", text)
    remove_leftovers(folder)
    with ended_in_one_line():
        assert (folder / "a.txt").read_text() == text
os.name = "nt"
assert machine.is_alive(2**22 + 1)  # and nothing was signalled
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT + code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=240)


def test_viewer_and_commands_import() -> None:
    done = python(EVERYTHING, "resource,termios,pwd,fcntl")
    assert done.returncode == 0, done.stderr
    assert "--port" in done.stdout and done.stderr == ""


def test_files_are_written_whole_and_nothing_is_signalled(tmp_path: Path) -> None:
    done = python(WRITES, "resource", tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt"]


def test_what_linux_tells_is_told() -> None:
    from splatseg.core import machine

    peak, memory = machine.peak_memory(), machine.available_memory()
    assert peak is not None and peak > 10 << 20
    assert memory is not None and memory > 1 << 20
    assert machine.is_alive(os.getpid()) and not machine.is_alive(2**22 + 1)
