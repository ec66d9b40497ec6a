"""``scripts/view.py`` killed while somebody works in a window; the next server must take up all that was saved."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

from known_run import make_run
from test_viewer_process import Server, keep_parts, saved_things
from viser_client import wait_for


def kill_viewer(folder: Path, rng: Random) -> dict[str, Any]:
    """One kill between the first click and a second after the last; then the same command and three more things."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    known, delay = make_run(folder), rng.uniform(0, 4)
    sessions = known.workspace.sessions_folder
    autosave = sessions / "autosave.npz"
    server = Server(known.workspace.run.folder)
    window = server.window(known)

    def edit() -> None:
        try:
            keep_parts(window, known, 0, 3)
        except Exception:  # the server is gone
            return

    person = threading.Thread(target=edit)
    person.start()
    time.sleep(delay)
    server.kill()
    window.close()
    person.join()
    saved, wrong = saved_things(known) if autosave.is_file() else 0, ""
    second = Server(known.workspace.run.folder)
    try:
        window = second.window(known)
        wait_for("what was saved", lambda: len(window.objects()) == saved)
        if list(sessions.glob(".*.tmp*")) or list(sessions.glob("*.unreadable")):
            wrong = f"left over: {[path.name for path in sessions.iterdir()]}"
        keep_parts(window, known, saved, saved + 1)
        wait_for("it to be saved", lambda: autosave.is_file() and saved_things(known) == saved + 1)
        window.close()
    except Exception as error:
        wrong = f"not taken up: {error}"
    finally:
        second.kill()
    outcome = "answer" if not wrong else wrong.partition(":")[0]
    return {"delay": delay, "killed": True, "saved": saved, "outcome": outcome, "message": wrong}
