"""The one reporter: what counters, shares and percents tell it; bars; the run's log; cancelling from another thread."""

from __future__ import annotations

from pathlib import Path

import pytest
from listener import Listener

from splatseg.core.progress import SILENT, Cancelled, Job, Percent, Progress, Terminal, terminal
from splatseg.io.run import Run
from splatseg.io.run_log import RunLog


def test_a_counter_tells_every_step_and_its_end() -> None:
    listener = Listener()
    for _ in range(2):
        with listener.count(5, "fit", unit="step", initial=2) as counter:
            counter.advance(loss="1.0")
            counter.advance(2)
    once = [
        Progress("fit", 2, 5, "step"),
        Progress("fit", 3, 5, "step", {"loss": "1.0"}),
        Progress("fit", 5, 5, "step", {"loss": "1.0"}),
    ]
    assert listener.heard == once * 2 and listener.finished == ["fit"] * 2
    assert [progress.share for progress in once] == [0.4, 0.6, 1.0]
    assert Progress("nothing", 0, 0).share == 1.0 and Progress("beyond", 7, 5).share == 1.0


def test_a_counter_that_is_left_has_ended() -> None:
    """By an error of the work; by the reporter, at its first word and later."""
    for stop_at, error in ((None, KeyError), (1, Cancelled), (2, Cancelled)):
        listener = Listener(stop_at=stop_at)
        with pytest.raises(error), listener.count(3, "fit") as counter:
            counter.advance()
            raise KeyError
        assert listener.finished == ([] if stop_at == 1 else ["fit"])


def test_parts_and_percents() -> None:
    listener = Listener()
    half = listener.part(0.5, 0.25)
    half("writing", 0.0)
    half("writing", 1.0)
    assert [progress.share for progress in listener.heard] == [0.5, 0.75]
    with Percent(listener, "labels") as percent:
        percent.report("clustering", 0.333)
        percent.log({"a": 1})
    assert listener.heard[-1] == Progress("labels", 33, 100, "%", {"step": "clustering"})
    assert listener.finished == ["labels"] and listener.logged == [{"a": 1}]


def test_bars_on_stderr_one_inside_another(capsys: pytest.CaptureFixture[str]) -> None:
    """Weights that are brought while masks are made; a bar of the same label begins anew."""
    bars = terminal(quiet=False)
    assert isinstance(bars, Terminal) and terminal(quiet=True) is SILENT
    for total in (3, 4):
        with bars.count(total, "masks", unit="view") as views:
            bars.update(Progress("weights", 10, 20, "MB"))
            bars.update(Progress("weights", 20, 20, "MB"))
            bars.finish("weights")
            views.advance(total, masks="7")
    out, err = capsys.readouterr()
    assert not out
    for text in ("weights: 100%", "20/20", "masks: 100%", "3/3", "4/4", "masks=7"):
        assert text in err


def test_silence_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with SILENT.count(3, "fit") as counter:
        counter.advance()
    SILENT.report("step", 0.5)
    SILENT.log({"a": 1})
    assert capsys.readouterr() == ("", "")


def test_a_job_shows_and_cancels() -> None:
    job = Job()
    job.report("scoring", 0.25)
    assert (job.step, job.share, job.cancelled) == ("scoring", 0.25, False)
    with job.count(4, "views") as counter:
        counter.advance(2)
        assert (job.step, job.share) == ("views", 0.5)
        job.cancel()
        for _ in range(2):
            with pytest.raises(Cancelled):
                counter.advance()
    assert job.cancelled and job.share == 0.5


def test_the_runs_log_keeps_figures_and_passes_progress_on(tmp_path: Path) -> None:
    run, listener, noted = Run.open(tmp_path / "run", {}), Listener(stop_at=2), []
    log = RunLog(run, listener, noted.append)
    with pytest.raises(Cancelled), log.count(5, "fit") as counter:
        log.log({"stage": "fit", "step": 1})
        counter.advance()
    assert [entry["step"] for entry in run.read_log()] == [1]
    assert noted == listener.logged == [{"stage": "fit", "step": 1}]
    assert listener.finished == ["fit"]
