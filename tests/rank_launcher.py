"""``python tests/rank_launcher.py``: commands by several ranks, as torchrun starts and ends them, but forked.

Importing torch takes some three seconds of a processor for each process: here one process imports everything once and
forks the ranks of each job. A job is a line of JSON on stdin, its outcome one on stdout (:class:`RankLauncher`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parent.parent
SECONDS = 120  # that a job may take; ranks that wait for each other without end are killed then
Fault = tuple[Any, ...]
"""A function of ``rank_faults`` and its arguments."""


@dataclass(frozen=True)
class Outcome:
    """Exit code (negative: signal) and words on stderr and stdout of every rank; ``hung``: some did not end."""

    codes: list[int]
    errors: list[str]
    output: list[str]
    hung: bool

    @property
    def said(self) -> list[str]:
        """Lines of all ranks that begin as ours for people do."""
        return [line for text in self.errors for line in text.splitlines() if line.startswith("error: ")]


class RankLauncher:
    """Runs commands by ranks; a context manager."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        environment |= {"OMP_NUM_THREADS": "1", "SPLATSEG_CACHE": tempfile.gettempdir()}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(
        self, command: str, arguments: Sequence[object] | Sequence[Sequence[object]], ranks: int, **faults: Any
    ) -> Outcome:
        """``splatseg COMMAND ARGUMENTS`` by so many ranks.

        Args:
            command: ``fit``, ``masks`` or ``views``.
            arguments: of all ranks, or a list for each of them.
            ranks: how many.
            faults: ``rank1=[("killed_at_step", 5)]`` and so on, functions of ``rank_faults``.
        """
        each = [list(map(str, one)) for one in arguments if isinstance(one, list | tuple)]
        words = each or [list(map(str, arguments))] * ranks
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps([command, words, faults]) + "\n")
        self._server.stdin.flush()
        outcome = Outcome(*json.loads(self._server.stdout.readline()))
        assert not outcome.hung, outcome.errors
        return outcome

    def __enter__(self) -> RankLauncher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()


def _serve() -> None:
    import hdbscan  # noqa: F401
    import torch
    import torch.distributed

    import splatseg.cli.fit
    import splatseg.cli.masks
    import splatseg.cli.views  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        command, words, faults = json.loads(line)
        print(json.dumps(_job(command, words, faults)), flush=True)


def _job(command: str, words: list[list[str]], faults: dict[str, list[Fault]]) -> list[Any]:
    import torch.distributed as dist

    with socket.socket() as chosen:
        chosen.bind(("localhost", 0))
        port = chosen.getsockname()[1]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        running = {}
        for rank, mine in enumerate(words):
            settings = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": len(words), "LOCAL_WORLD_SIZE": len(words)}
            settings |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True"}
            process = os.fork()
            if not process:
                os.environ.update({name: str(value) for name, value in settings.items()})
                _rank(command, mine, faults.get(f"rank{rank}", []), folder / str(rank))
            running[process] = rank
        store = dist.TCPStore("localhost", port, is_master=True, wait_for_workers=False)
        codes, hung = _wait(running, len(words))
        del store
        errors = [(folder / f"{rank}.err").read_text() for rank in range(len(words))]
        return [codes, errors, [(folder / f"{rank}.out").read_text() for rank in range(len(words))], hung]


def _rank(command: str, words: list[str], faults: list[Fault], place: Path) -> None:
    """This process becomes a rank."""
    code = 1
    try:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{place}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        import rank_faults

        import splatseg.cli.fit
        import splatseg.cli.masks
        import splatseg.cli.views
        from splatseg.cli.endings import run

        mains = {"fit": splatseg.cli.fit.main, "masks": splatseg.cli.masks.main, "views": splatseg.cli.views.main}
        sys.argv = [f"{command}.py", *words]
        for name, *arguments in faults:
            getattr(rank_faults, name)(*arguments)
        run(mains[command])
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(running: dict[int, int], count: int) -> tuple[list[int], bool]:
    """Exit codes; as torchrun does, the first rank that fails ends the others by SIGTERM."""
    codes = [0] * count
    deadline = time.monotonic() + SECONDS
    failed = hung = False
    while running:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            codes[running.pop(process)] = os.waitstatus_to_exitcode(status)
            if status and not failed:
                failed = True
                deadline = min(deadline, time.monotonic() + 30)
                time.sleep(0.1)
                for other in running:
                    os.kill(other, signal.SIGTERM)
        elif time.monotonic() > deadline:
            hung = True
            for other in running:
                os.kill(other, signal.SIGKILL)
        else:
            time.sleep(0.01)
    return codes, hung


if __name__ == "__main__":
    _serve()
