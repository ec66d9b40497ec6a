"""What trust rests on, measured: damaged inputs by the thousand and kills at random moments. Not part of CI as a whole;
``tests/test_campaign.py`` runs a slice.

    python tests/campaign.py mutations --count 10000 --seed 0 --work DIR
    python tests/campaign.py formats --count 3000 --seed 0 --work DIR
    python tests/campaign.py kills --count 200 --seed 0 --work DIR
    python tests/campaign.py kills --count 60 --jobs "fit, sfm" "masks, sam" --work DIR
    python tests/campaign.py report --work DIR

A case is a function of seed and number. Results are lines of DIR/WHAT-SEED.jsonl; a campaign that was stopped goes on
where it was, and ``--again`` does the cases anew that failed. ``--only N`` does one case and shows all that is known of
it.
"""

from __future__ import annotations

import argparse
import json
import queue
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from campaign_cases import GOOD, PATIENCE, SCRIPT_EVERY, Case, environment, script_case

from splatseg.core.progress import terminal

Result = dict[str, Any]


class Log:
    """The results of a campaign, a JSON line each, with the newest of a case counting."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self.results: dict[int, Result] = {}
        if path.is_file():
            for line in path.read_text().splitlines():
                try:
                    result = json.loads(line)
                except ValueError:  # cut off by a kill
                    continue
                self.results[result["number"]] = result

    def add(self, result: Result) -> None:
        with self._lock:
            new = not self.path.is_file() or self.path.read_bytes()[-1:] in (b"", b"\n")
            with open(self.path, "a") as file:
                file.write(("" if new else "\n") + json.dumps(result) + "\n")
            self.results[result["number"]] = result

    def left(self, count: int, again: bool) -> list[int]:
        """The numbers below ``count`` without a result; with ``again`` also those that failed."""
        done = {n for n, result in self.results.items() if not again or result["outcome"] in GOOD}
        return [number for number in range(count) if number not in done]


class Worker:
    """A process of :mod:`campaign_cases`, started anew where a case ends it or takes too long."""

    def __init__(self, bases: Path, work: Path) -> None:
        self.bases, self.work = bases, work
        self.process: subprocess.Popen[str] | None = None

    def case(self, case: Case) -> Result:
        if case.number % SCRIPT_EVERY == 0 and (done := script_case(case, self.bases, self.work)) is not None:
            return done
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(asdict(case)) + "\n")
        process.stdin.flush()
        if select.select([process.stdout], [], [], PATIENCE)[0] and (line := process.stdout.readline()):
            result: Result = json.loads(line)
            return result
        return self._ended(case)

    def _started(self) -> subprocess.Popen[str]:
        if self.process is None:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(parents=True)
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("campaign_cases.py")), str(self.bases), str(self.work)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=open(self.work.with_suffix(".stderr"), "w"),  # noqa: SIM115 (its own from here on)
                text=True,
                cwd=self.work,
                env=environment(self.work),
            )
            assert self.process.stdout is not None
            if self.process.stdout.readline() != "ready\n":
                raise RuntimeError(self.work.with_suffix(".stderr").read_text())
        return self.process

    def _ended(self, case: Case) -> Result:
        """What is known of a case that ended the process, or must be ended."""
        process = self._started()
        outcome = "hang" if process.poll() is None and not self._just_ended(process) else "abort"
        self.close()
        said = self.work.with_suffix(".stderr").read_text(errors="replace")[-2000:]
        name = case.door()[0]
        message = f"exit {process.returncode}" if outcome == "abort" else f"over {PATIENCE:g} s"
        return {
            "number": case.number,
            "door": name,
            "damage": "",
            "outcome": outcome,
            "message": message,
            "trace": said,
        }

    @staticmethod
    def _just_ended(process: subprocess.Popen[str]) -> bool:
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


def do_all(
    log: Log,
    numbers: Iterable[int],
    workers: int,
    make: Callable[[int], tuple[Callable[[int], Result], Callable[[], None]]],
) -> None:
    """Do the cases ``numbers`` in ``workers`` threads; ``make(k)`` gives what does a case, and what ends that."""
    waiting: queue.Queue[int] = queue.Queue()
    for number in numbers:
        waiting.put(number)
    failed, errors = Counter[str](), []
    with terminal(False).count(waiting.qsize(), "campaign", unit="case") as progress:

        def work(index: int) -> None:
            case, close = make(index)
            try:
                while not errors:
                    try:
                        result = case(waiting.get_nowait())
                    except queue.Empty:
                        return
                    log.add(result)
                    failed[result["outcome"]] += 1
                    progress.advance(failed=str(sum(n for outcome, n in failed.items() if outcome not in GOOD)))
            except BaseException as error:
                errors.append(error)
                raise
            finally:
                close()

        threads = [threading.Thread(target=work, args=(index,)) for index in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def mutations(options: argparse.Namespace) -> Log:
    """The campaign of damaged inputs."""
    from campaign_bases import build_bases
    from campaign_formats import build_formats

    bases = build_bases(options.work / "bases")
    if options.what == "formats":
        build_formats(bases)
    log = Log(options.work / f"{options.what}-{options.seed}.jsonl")

    def make(index: int) -> tuple[Callable[[int], Result], Callable[[], None]]:
        worker = Worker(bases, options.work / f"worker-{index}")
        return lambda number: worker.case(Case(options.seed, number, options.what)), worker.close

    carry_out(options, log, make)
    return log


def kills(options: argparse.Namespace) -> Log:
    """The campaign of kills."""
    from campaign_kills import Kills

    campaign = Kills(options.work / "kills", options.seed, options.jobs)
    log = Log(options.work / f"kills-{options.seed}{''.join(options.jobs).replace(' ', '')}.jsonl")

    carry_out(options, log, campaign.worker)
    return log


def carry_out(
    options: argparse.Namespace, log: Log, make: Callable[[int], tuple[Callable[[int], Result], Callable[[], None]]]
) -> None:
    """The one case that was asked for, shown, or all that are left, into ``log``; ``make`` as in :func:`do_all`."""
    if options.only is not None:
        case, close = make(0)
        show(case(options.only))
        close()
    else:
        do_all(log, log.left(options.count, options.again), options.workers, make)


def show(result: Result) -> None:
    for name, value in result.items():
        print(f"{name:>10}  {value}")


def table(log: Log, kind: str) -> str:
    """Kinds against outcomes, as Markdown."""
    outcomes = [*GOOD, *sorted({r["outcome"] for r in log.results.values()} - set(GOOD))]
    counts = Counter((r[kind], r["outcome"]) for r in log.results.values())
    rows = [f"| {kind} | cases | {' | '.join(outcomes)} |", "|---" * (len(outcomes) + 2) + "|"]
    for name in sorted({r[kind] for r in log.results.values()}):
        found = [counts[name, outcome] for outcome in outcomes]
        rows.append(f"| {name} | {sum(found)} | {' | '.join(map(str, found))} |")
    totals = [sum(n for (_, o), n in counts.items() if o == outcome) for outcome in outcomes]
    rows.append(f"| all | {sum(totals)} | {' | '.join(map(str, totals))} |")
    return "\n".join(rows)


def failures(log: Log) -> str:
    """The cases that failed, those of one place together."""
    groups: dict[str, list[Result]] = {}
    for result in log.results.values():
        if result["outcome"] not in GOOD:
            lines = [line.strip() for line in result.get("trace", "").splitlines() if line.strip().startswith("File")]
            ours = [line for line in lines if "/splatseg/" in line or "/scripts/" in line]
            where = (ours or lines or [""])[-1]
            groups.setdefault(f"{result['outcome']} {where}", []).append(result)
    said = []
    for key, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        first = group[0]
        said.append(f"{len(group):5}  {key}\n       case {first['number']}, {first.get('door') or first.get('job')}")
        said[-1] += f", {first.get('damage', '')}: {first['message']!r}"
    return "\n".join(said)


def report(options: argparse.Namespace) -> None:
    for name, kind in (("mutations", "door"), ("formats", "door"), ("kills", "job")):
        path = options.work / f"{name}-{options.seed}.jsonl"
        if path.is_file():
            log = Log(path)
            print(f"{table(log, kind)}\n")
            if said := failures(log):
                print(f"{said}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("mutations", "formats", "kills", "report"))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="do those anew that failed")
    parser.add_argument("--jobs", nargs="*", default=[], help="kill these commands alone, such as 'masks, sam'")
    parser.add_argument("--only", type=int, help="do one case and show it")
    options = parser.parse_args()
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.what == "report":
        report(options)
        return 0
    log = (kills if options.what == "kills" else mutations)(options)
    if options.jobs:
        print(f"{table(log, 'job')}\n{failures(log)}")
    else:
        report(options)
    return 1 if any(result["outcome"] not in GOOD for result in log.results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
