"""What happens to one of several ranks in tests; each is called in that rank before the command begins."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _after(function: Callable[..., Any], count: int, then: Callable[[], None]) -> Callable[..., Any]:
    """``function`` whose call number ``count``, from 1, is ``then`` first."""
    calls = 0

    def called(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            then()
        return function(*arguments, **named)

    return called


def killed_at_step(count: int) -> None:
    """SIGKILL at the rank's ``count``-th step of the geometry."""
    from splatseg.fit.geometry import fit

    fit.train_step = _after(fit.train_step, count, _die)


def killed_at_pool(count: int) -> None:
    """SIGKILL where the rank makes its ``count``-th pool of pixels, of the evidence or of the steps."""
    from splatseg.fit import pixel_pools

    pixel_pools._sample = _after(pixel_pools._sample, count, _die)


def killed_at_feature_step(count: int) -> None:
    """SIGKILL at the ``count``-th step of the features."""
    from splatseg.fit.features import FeatureTrainer

    FeatureTrainer.step = _after(FeatureTrainer.step, count, _die)  # type: ignore[method-assign]


def killed_at_hierarchy(count: int) -> None:
    from splatseg.fit import hierarchies

    hierarchies.build_hierarchy = _after(hierarchies.build_hierarchy, count, _die)


def few_rays(count: int) -> None:
    """Plans of views by fewer rays from a place: worse ones, in a third of the time."""
    from splatseg.fit.views import positions

    positions.RAYS = count


def killed_at_move(count: int) -> None:
    """SIGKILL where the rank moves the ``count``-th of several new paths into its place."""
    from splatseg.core import atomic

    atomic._put_aside = _after(atomic._put_aside, count, _die)


def killed_at_labels() -> None:
    from splatseg.fit import pipeline

    pipeline.discretize = _after(pipeline.discretize, 1, _die)


def killed_in_labels_of_the_first() -> None:
    """SIGKILL while rank 0 is about to label: this rank waits there."""
    from splatseg.core.ranks import Ranks

    broadcast = Ranks.broadcast
    asked: list[object] = []

    def called(self: Ranks, value: Any) -> Any:
        if asked and asked[-1] == "features":
            _die()
        found = broadcast(self, value)
        if isinstance(found, tuple) and found and isinstance(found[0], str):
            asked.append(found[0])
        return found

    Ranks.broadcast = called  # type: ignore[method-assign]


def bug_at_step(count: int) -> None:
    from splatseg.fit.geometry import fit

    def fail() -> None:
        raise KeyError("a bug of this test")

    fit.train_step = _after(fit.train_step, count, fail)


def unreadable_at_step(count: int) -> None:
    """A photo that went away meanwhile."""
    from splatseg.core.errors import SplatsegError
    from splatseg.fit.geometry import fit

    def fail() -> None:
        raise SplatsegError("train_001.jpg: unreadable image")

    fit.train_step = _after(fit.train_step, count, fail)


def checkpoints_at_once() -> None:
    """A checkpoint after every step."""
    from splatseg.fit.records import StageRecords

    hooks = StageRecords.hooks
    StageRecords.hooks = lambda self, stage: replace(hooks(self, stage), checkpoint_seconds=0.0)  # type: ignore[method-assign]


def little_memory(megabytes: int) -> None:
    from splatseg.core import memory

    memory.available_memory = lambda: megabytes << 20


def rounds_differently(count: int) -> None:
    """Before its ``count``-th step the rank's Gaussians move by a rounding error, as another processor's would."""
    from splatseg.fit.geometry import fit

    step = fit.train_step
    calls = 0

    def called(state: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            state.params["means"].data.mul_(1 + 2e-7)
        return step(state, *arguments)

    fit.train_step = called


def impatient() -> None:
    """No seconds of waiting for a file that a network file system may show late."""
    from splatseg.io import shared_folder

    shared_folder.PATIENCE = 0.2
