"""A case of damaged input: a function of seed and number alone. Prepared, opened, judged; and the process that does so.

``python tests/campaign_cases.py BASES WORK`` opens the cases whose seed and number come on stdin, a JSON line each, and
answers a JSON line each. It is ended by its parent where a case takes too long.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from campaign_doors import Door

ROOT = Path(__file__).parent.parent
PATIENCE = 60.0  # seconds that a case may take; those of a script three times as many
MEMORY = 3 << 30  # bytes of address space that a case may take above what the process has before
SCRIPT_EVERY = 50  # of so many cases one goes through the script
GOOD = ("answer", "refused")
_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.rename": 2,
    "os.remove": 1,
    "os.mkdir": 1,
    "os.rmdir": 1,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": 1,
}


@dataclass(frozen=True)
class Case:
    """What is known of a case: all else follows. ``what``: "mutations" of all inputs, or of "formats" of splats."""

    seed: int
    number: int
    what: str = "mutations"

    def door(self) -> tuple[str, Door, Random]:
        """Name and kind of the case's input, and the random numbers for what is done to it."""
        from campaign_doors import DOORS
        from campaign_formats import FORMAT_DOORS

        doors = DOORS if self.what == "mutations" else FORMAT_DOORS
        rng = Random(f"{self.what.removesuffix('s')} {self.seed} {self.number}")
        name = rng.choices(list(doors), [door.weight for door in doors.values()])[0]
        return name, doors[name], rng


def prepare(case: Case, bases: Path, place: Path) -> tuple[str, Door, str]:
    """Copy the inputs of a case to ``place`` and damage them; returns its door and what was done to which file."""
    from campaign_mutations import mutate

    name, door, rng = case.door()
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(bases / door.base, place)
    files = sorted({path for pattern in door.files for path in place.glob(pattern) if path.is_file()})
    # A pattern a file kind: else the many masks would hide the one table.
    pattern = rng.choice(door.files)
    chosen = rng.choice([path for path in files if path.relative_to(place).match(pattern)] or files)
    done = mutate(rng, chosen, [path for path in files if path != chosen] or files)
    return name, door, f"{chosen.relative_to(place)}: {done}"


# Watching --------------------------------------------------------------------------------------------------------


class Watch:
    """Notes what the process writes, from Python, outside of the folders that it may write to."""

    def __init__(self) -> None:
        self.allowed: list[str] | None = None
        self.outside: list[str] = []
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITE:
            self._note(event, arguments[:1])
        elif event in _CHANGES:
            self._note(event, arguments[1:2] if event in ("os.link", "os.symlink") else arguments[: _CHANGES[event]])
        elif event in ("os.system", "socket.connect", "os.exec", "shutil.rmtree"):
            self._note(event, arguments[:1])

    def _note(self, event: str, paths: tuple[Any, ...]) -> None:
        for path in paths:
            if isinstance(path, int):
                continue
            real = _place(event, os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else str(path)
            relative = not os.path.isabs(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else False
            inside = any(real == place or real.startswith(f"{place}/") for place in self.allowed or ())
            # Names relative to an open folder (shutil.rmtree) cannot be told; the listing of the neighbors is.
            if not inside and real != "/dev/null" and not (relative and event in ("os.remove", "os.rmdir")):
                self.outside.append(f"{event} {real}")

    @contextmanager
    def within(self, allowed: list[Path]) -> Iterator[None]:
        self.outside, self.allowed = [], [os.path.realpath(path) for path in allowed]
        try:
            yield
        finally:
            self.allowed = None


def _place(event: str, path: str) -> str:
    """What an event writes to: what a link leads to where it is opened, the link itself where it is made or removed."""
    if event == "open":
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(path))), os.path.basename(path))


def listing(folder: Path, without: list[Path]) -> dict[str, tuple[int, int]]:
    """Everything below ``folder`` with its size and time of change, but what is in ``without``."""
    found, left = {}, {str(path) for path in without}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if os.path.join(parent, name) not in left]
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            if path not in left:
                stat = os.lstat(path)
                found[path] = (0, 0) if os.path.isdir(path) else (stat.st_size, stat.st_mtime_ns)
    return found


# Opening ---------------------------------------------------------------------------------------------------------


def open_case(case: Case, bases: Path, work: Path, watch: Watch) -> dict[str, Any]:
    """Do a case in this process and judge it."""
    place = work / "case"
    name, door, damage = prepare(case, bases, place)
    writes = [place / folder for folder in door.writes]
    before = listing(work, writes)
    started = time.monotonic()
    judged: dict[str, Any]
    with watch.within(writes):
        judged = judge(lambda: door.open(place, bases), place)
    seconds = time.monotonic() - started
    changed = [path for path, state in listing(work, writes).items() if before.get(path) != state]
    changed += [path for path in before if not os.path.lexists(path)]
    if judged["outcome"] in GOOD and (watch.outside or changed):
        judged = {"outcome": "write outside", "message": "; ".join([*watch.outside, *changed][:3])}
    return {"number": case.number, "door": name, "damage": damage, "seconds": round(seconds, 2), **judged}


def judge(door: Any, place: Path) -> dict[str, Any]:
    """The outcome of ``door()``: a right answer, one line that names a file, or what else happened."""
    from splatseg.core.errors import SplatsegError

    try:
        door()
    except SplatsegError as error:
        message = str(error)
        if len(message.splitlines()) != 1:
            return {"outcome": "several lines", "message": message[:500]}
        # A command line has no file, and settings name their option.
        named = str(place) in message or "arguments.json" in os.listdir(place) or message.startswith("session")
        return {"outcome": "refused" if named else "unnamed", "message": message[:300]}
    except AssertionError as error:
        return {"outcome": "wrong answer", "message": str(error)[:300], "trace": traceback.format_exc()[-3000:]}
    except MemoryError:
        return {"outcome": "memory", "message": "", "trace": traceback.format_exc()[-3000:]}
    except BaseException as error:
        return {"outcome": "traceback", "message": f"{error!r}"[:300], "trace": traceback.format_exc()[-3000:]}
    return {"outcome": "answer", "message": ""}


def script_case(case: Case, bases: Path, work: Path) -> dict[str, Any] | None:
    """Do a case through its script; None where its door has none."""
    place = work / "case"
    if (script := case.door()[1].script) is None:
        return None
    name, _, damage = prepare(case, bases, place)
    command = script(place, bases)
    may = [place / "cache", place / "run"]
    variables = environment(work)  # makes folders
    before, started = listing(work, may), time.monotonic()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / command[0]), *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=work,
        env=variables,
        start_new_session=True,
    )
    try:
        _, written = process.communicate(timeout=3 * PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {
            "number": case.number,
            "door": name,
            "damage": damage,
            "outcome": "hang",
            "message": "",
            "script": command[0],
        }
    said, code = written.decode("utf-8", "replace"), process.returncode
    changed = [path for path, state in listing(work, may).items() if before.get(path) != state]
    last = (said.strip().splitlines() or [""])[-1]
    outcome = "answer" if code == 0 else "refused"
    if code not in (0, 2) or "Traceback" in said or (code == 2 and not last.startswith("error: ")):
        outcome = "traceback" if "Traceback" in said else "abort"
    elif changed:
        outcome, last = "write outside", "; ".join(changed[:3])
    elif code == 2 and said.count("error: ") > 1 and said.strip().count("\n") > 3:
        outcome = "several lines"
    judged = {"outcome": outcome, "message": last[:300], "script": command[0], "exit": code}
    if outcome not in GOOD:
        judged["trace"] = said[-3000:]
    seconds = round(time.monotonic() - started, 2)
    return {"number": case.number, "door": name, "damage": damage, "seconds": seconds, **judged}


def environment(work: Path) -> dict[str, str]:
    """Of a process whose home, cache and temporary folder are in ``work``, so that what it leaves there is seen."""
    places = {"HOME": "home", "TMPDIR": "tmp", "XDG_CACHE_HOME": "home/.cache"}
    for place in places.values():
        (work / place).mkdir(parents=True, exist_ok=True)
    changes = {name: str(work / place) for name, place in places.items()}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**os.environ, **changes, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def main(bases: Path, work: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the code prints must not come between the answers
    import campaign_formats  # noqa: F401 (what takes long, before the memory is limited)
    import torch

    torch.set_num_threads(1)
    logging.getLogger().addHandler(logging.NullHandler())
    watch = Watch()
    found = re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    limit = int(found[1]) * 1024 + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        case = Case(**json.loads(line))
        print(json.dumps(open_case(case, bases, work, watch)), file=answers, flush=True)
        if case.number % 20 == 0:
            gc.collect()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
