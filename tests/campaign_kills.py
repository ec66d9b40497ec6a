"""Commands killed with SIGKILL, at a random time or before a random change of a file, and given again.

A command runs in a process that is forked from one that has imported everything, else most kills would come upon
imports. Half of the cases are killed after a time, half before the k-th time that the process opens a file to write,
renames, removes, links or makes a folder. Then the same command must end well, with the results of one that was never
killed, with everything that was there before, and with nothing left over.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from campaign_cases import _CHANGES, _WRITE, ROOT, environment, listing

TIMES = ("seconds", "_seconds", "peak_memory_mb", "finished", "when", "time", "written")  # fields that differ anyway
THINGS = 5
PATIENCE = 240.0  # seconds that a command may take


@dataclass(frozen=True)
class Job:
    """A command on ``place``: a copy of ``start`` (folder of the bases, or none), ``words`` with @ for the place and
    & for the bases. Those of no weight are killed where they are asked for by name (``campaign.py --jobs``)."""

    words: tuple[str, ...]
    start: str | None = None
    weight: float = 1
    exact: bool = True
    """Whether two runs of the command give the same bytes; else the same files."""


def jobs(photos: Path | None = None) -> dict[str, Job]:
    """Of ``photos`` (a folder that SfM registers) the poses are found, too; without it that job is left out."""
    from campaign_bases import TINY_ARGUMENTS, VIEW

    fit = ("fit.py", "&/capture", "--out", "@/run", *TINY_ARGUMENTS)
    masks = ("--masks", "&/capture/masks_2d")
    sam = ("--source", "sam", "--sam-checkpoint", "&/tiny.pth", "--sam.points-per-side", "6", "--sam.device", "cpu")
    sam += ("--sam.pred-iou-thresh", "-9", "--sam.stability-score-thresh", "0.3", "--sam.min-mask-region-area", "0")
    found = {
        "masks, sam": Job(("masks.py", "&/capture", "--out", "@/run", *sam, "--preview", "--quiet"), weight=0),
    }
    plan = ("--views", "4", "--width", "64", "--height", "64", "--device=cpu", "--quiet")
    views = ("views.py", "&/run/run/geometry.ply", "--out", "@/views", *plan)
    found["views"] = Job(views, weight=0)
    found["views of another plan"] = Job(views, "planned", weight=0)
    if photos is not None:
        few = ("--config.hold-out-every", "0", "--device=cpu", "--quiet", "--preset", "fast")
        words = ("fit.py", str(photos), "--sfm", "--out", "@/run", *few, "--config.geometry.steps=5")
        found["fit, sfm"] = Job((*words, "--config.features.steps=3"), weight=0, exact=False)
    return found | {
        "fit": Job((*fit, *masks), weight=50),
        "fit, watershed, half size": Job((*fit, "--downscale", "2"), weight=15),
        "fit, undistorted": Job(("fit.py", "&/distorted/scene", *fit[2:]), weight=15),
        "fit of a used run": Job((*fit, *masks, "--config.features.steps=12"), "run", 30),
        "masks": Job(
            (
                "masks.py",
                "&/capture",
                "--out",
                "@/run",
                "--source",
                "watershed",
                "--preview",
                "--coco",
                "@/coco",
                "--quiet",
            ),
            weight=20,
        ),
        "export": Job(
            ("export.py", "@/run", "--again", "--sidecar", "--out", "@/run/exports/plain.ply", "--quiet"), "run", 20
        ),
        "segment": Job(
            ("segment.py", "@/run", "--view", VIEW, "--pixel", "32", "24", "--threshold", "0.5", "--quiet"), "run", 15
        ),
        "session": Job(("session", "@/run", "@/journal"), "run", 27),
        "viewer": Job(("viewer",), weight=8),
    }


# What is compared ------------------------------------------------------------------------------------------------


def timeless(value: Any) -> Any:
    """JSON without what differs between two runs of the same command."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not k.endswith(TIMES)}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def content(path: Path, place: Path) -> str:
    """A digest of what a file says."""
    data = path.read_bytes()
    if path.suffix in (".npz", ".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {name: archive.read(name) for name in sorted(archive.namelist())}
        if "meta.npy" in parts:
            raw = parts["meta.npy"]
            parts["meta.npy"] = json.dumps(timeless(json.loads(raw[raw.index(b"{", raw.index(b"\n")) :]))).encode()
        data = b"".join(name.encode() + hashlib.sha256(part).digest() for name, part in parts.items())
    elif path.suffix == ".json":
        data = json.dumps(timeless(json.loads(data)), sort_keys=True).encode()
    return hashlib.sha256(data.replace(str(place).encode(), b"@")).hexdigest()[:16]


def contents(place: Path) -> dict[str, str]:
    """File below ``place`` -> digest, but for locks, logs and the journal."""
    return {
        path.relative_to(place).as_posix(): content(path, place)
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.name not in ("lock", "lock.pid", ".lock", ".lock.pid", "log.jsonl", "journal")
    } | {path.relative_to(place).as_posix(): "folder" for path in place.rglob("*.tmp*") if path.is_dir()}


def paths(found: dict[str, str]) -> set[str]:
    """What is there, whatever it was made from: the undistorted photos' folder is called after poses and cameras."""
    return {re.sub(r"undistorted-[0-9a-f]+", "undistorted", path) for path in found}


# The process that is killed --------------------------------------------------------------------------------------


def edit_session(folder: Path, journal: Path) -> None:
    """What a person does in the viewer: keep things, save, export; it goes on where the last process was killed.

    Raises:
        AssertionError: something that had been saved is gone.
    """
    from splatseg.session import Session, Workspace
    from splatseg.session.exports import export_labels, export_masks, export_selection

    workspace = Workspace.open(folder)
    workspace.start_autosave()
    session = Session(workspace)
    if (step := workspace.take_restored_step()) is not None:
        session.resume(step)
    kept = [entry.name for entry in session.objects if entry.name.startswith("thing")]
    noted = len(journal.read_text().split()) if journal.is_file() else 0
    assert len(kept) >= noted, f"{noted} things were saved, {len(kept)} are there ({workspace.restored})"
    assert {"first", "hidden 1"} <= {entry.name for entry in session.objects}, f"lost: {workspace.restored}"
    for number in range(len(kept), THINGS):
        session.click_gaussian(5 + 2 * number)
        if not len(session.selection):
            session.invert()
        session.keep(f"thing {number}")
        time.sleep(0.02)
        workspace.flush()
        with open(journal, "a") as file:
            file.write(f"{number}\n")
    export_selection(session, "chosen", "thing 1")
    export_masks(session, "chosen", "thing 1")
    export_labels(session, "mine")
    session.save("mine")
    workspace.close()


def stop_before(change: int | None, place: Path) -> Callable[[], int]:
    """Count this process's changes of files below ``place``; end its group before number ``change``."""
    count, inside = [0], os.path.realpath(place)

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in _CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITE)
        named = writes and isinstance(arguments[0], str | bytes | os.PathLike)
        if named and os.path.abspath(os.fsdecode(arguments[0])).startswith(inside):
            count[0] += 1
            if count[0] == change:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(heard)
    return lambda: count[0]


def become_tiny() -> None:
    """Segment Anything is segment-anything's own model, small, with the weights in the file that is given."""
    from test_sam_source import tiny_model

    from splatseg.masks.sam.source import SamMasks

    SamMasks.__init__.__defaults__ = (None, None, tiny_model)  # type: ignore[misc]


def command_in_child(order: dict[str, Any]) -> None:
    """In the forked process: become the command."""
    os.setsid()
    place = Path(order["place"])
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    counted, code = stop_before(order["change"], place), 0
    if order["checkpoints"]:
        import functools

        import splatseg.fit.records as records

        records.FitHooks = functools.partial(records.FitHooks, checkpoint_seconds=0.0)  # type: ignore[misc, assignment]
    name, *arguments = order["words"]
    if "sam" in arguments:
        become_tiny()
    try:
        if name == "session":
            edit_session(*map(Path, arguments))
        else:
            sys.path.insert(0, str(ROOT / "scripts"))
            sys.argv = [name, *arguments]
            runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    Path(order["said"]).with_suffix(".count").write_text(str(counted()))
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    """Fork a command for each line of stdin, kill it after its delay, answer with how it ended."""
    import campaign_bases  # noqa: F401
    import torch

    import splatseg.evaluate.hierarchical
    import splatseg.masks.watershed
    import splatseg.render
    import splatseg.session.exports  # noqa: F401

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        started, patience = time.monotonic(), PATIENCE if order["delay"] is None else order["delay"]
        child = os.fork()
        if child == 0:
            command_in_child(order)
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() - started < patience:
            time.sleep(0.002)
        if ended[0] == 0:
            try:
                os.killpg(child, signal.SIGKILL)
            except ProcessLookupError:  # it has no group yet
                os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
        answer = {"code": os.waitstatus_to_exitcode(ended[1]), "seconds": time.monotonic() - started}
        print(json.dumps(answer), file=answers, flush=True)


# The campaign ----------------------------------------------------------------------------------------------------


class Kills:
    """The campaign of one seed; references are made once, by commands that nobody kills."""

    def __init__(self, work: Path, seed: int, only: Sequence[str] = ()) -> None:
        from campaign_bases import build_bases, build_photos, build_sam_weights, build_views

        self.work, self.seed = work, seed
        work.mkdir(parents=True, exist_ok=True)
        self.bases = build_bases(work / "bases")
        known = jobs()
        if only:
            build_sam_weights(self.bases / "tiny.pth")
            build_views(self.bases / "planned/views", self.bases / "run/run/geometry.ply")
            known = jobs(build_photos(work / "photos"))
            if absent := [name for name in only if name not in known]:
                raise SystemExit(
                    f"no such job: {', '.join(absent)} ('fit, sfm' needs $SPLATSEG_DATA); {', '.join(known)}"
                )
            known = {name: replace(known[name], weight=1) for name in only}
        self.jobs = known
        self._lock = threading.Lock()
        self._references: dict[str, dict[str, Any]] = {}

    def worker(self, index: int) -> tuple[Callable[[int], dict[str, Any]], Callable[[], None]]:
        folder = self.work / f"worker-{index}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(folder / "stderr", "w"),  # noqa: SIM115 (the process's)
            text=True,
            env=environment(folder),
            cwd=folder,
        )
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError((folder / "stderr").read_text())

        def close() -> None:
            process.kill()
            process.wait()

        return lambda number: self._case(number, folder, process), close

    def _order(self, name: str, folder: Path, process: subprocess.Popen[str], **moment: Any) -> dict[str, Any]:
        place = folder / "place"
        words = [word.replace("@", str(place)).replace("&", str(self.bases)) for word in self.jobs[name].words]
        order = {"words": words, "place": str(place), "said": str(folder / "said"), "delay": None, "change": None}
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({**order, "checkpoints": False, **moment}) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        answer["said"] = (folder / "said").read_text(errors="replace")[-2000:]
        return answer

    def _start(self, name: str, folder: Path) -> dict[str, str]:
        """A fresh place for the job; what is there before."""
        place = folder / "place"
        shutil.rmtree(place, ignore_errors=True)
        if (start := self.jobs[name].start) is None:
            place.mkdir()
        else:
            shutil.copytree(self.bases / start, place)
            shutil.rmtree(place / "run/checkpoints", ignore_errors=True)
        return contents(place)

    def _reference(self, name: str, folder: Path, process: subprocess.Popen[str]) -> dict[str, Any]:
        with self._lock:
            if name not in self._references:
                self._start(name, folder)
                done = self._order(name, folder, process, checkpoints=True)
                if done["code"] != 0:
                    raise RuntimeError(f"{name}: {done['said']}")
                count = int((folder / "said.count").read_text())
                found = {"contents": contents(folder / "place"), "seconds": done["seconds"], "changes": count}
                self._references[name] = found
            return self._references[name]

    def _case(self, number: int, folder: Path, process: subprocess.Popen[str]) -> dict[str, Any]:
        rng = Random(f"kill {self.seed} {number}")
        name = rng.choices(list(self.jobs), [job.weight for job in self.jobs.values()])[0]
        if name == "viewer":
            from campaign_viewer import kill_viewer

            return {"number": number, "job": name, **kill_viewer(folder / "viewer", rng)}
        reference = self._reference(name, folder, process)
        before = self._start(name, folder)
        moment: dict[str, Any] = {"checkpoints": rng.random() < 0.5}
        if rng.random() < 0.5:
            moment["delay"] = rng.uniform(0, 1.05 * reference["seconds"])
        else:
            moment["change"] = rng.randint(1, reference["changes"])
        around = [folder / "place", folder / "said", folder / "said.count", folder / "stderr"]
        neighbors = listing(folder, around), listing(self.bases, [])
        killed = self._order(name, folder, process, **moment)
        result = {"number": number, "job": name, **moment, "killed": killed["code"] == -signal.SIGKILL}
        again = self._order(name, folder, process)
        place, wrong = folder / "place", ""
        now = contents(place)
        if again["code"] != 0:
            wrong = f"the same command ended with {again['code']}"
        elif left := [path for path in now if ".tmp" in path]:
            wrong = f"left over: {', '.join(left)[:200]}"
        elif lost := sorted(before.keys() - now.keys()):
            wrong = f"lost: {', '.join(lost)[:200]}"
        elif now != reference["contents"] and (self.jobs[name].exact or paths(now) != paths(reference["contents"])):
            names = {
                path for path in {*now, *reference["contents"]} if now.get(path) != reference["contents"].get(path)
            }
            wrong = f"other results: {', '.join(sorted(names))[:200]}"
        elif neighbors != (listing(folder, around), listing(self.bases, [])):
            wrong = "wrote outside"
        outcome = "answer" if not wrong else wrong.partition(":")[0]
        return {**result, "outcome": outcome, "message": wrong, **({"trace": again["said"]} if wrong else {})}


if __name__ == "__main__":
    serve()
