"""Fixtures every test shares: the device parameter and the folders of real inputs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


@pytest.fixture(params=DEVICES[1:] if os.environ.get("SPLATSEG_DEVICES") == "cuda" else DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device test runs on the CPU and, where there is one, on CUDA."""
    return torch.device(request.param)


def shared_inputs(name: str, variable: str, what: str) -> Path:
    """Folder ``../shared/<name>`` or ``$<variable>``; skips where it is absent."""
    folder = Path(os.environ.get(variable, SHARED / name))
    if not folder.is_dir():
        pytest.skip(f"{what} not at hand: {folder} (set {variable})")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real scenes (``$SPLATSEG_DATA`` or ``../shared/data``); skips where absent."""
    return shared_inputs("data", "SPLATSEG_DATA", "real scenes")


@pytest.fixture(scope="session")
def vectors_dir() -> Path:
    """Folder of the published loss vectors (``$SPLATSEG_VECTORS`` or ``../shared/vectors``); skips where absent."""
    return shared_inputs("vectors", "SPLATSEG_VECTORS", "loss vectors")


@pytest.fixture(scope="session")
def cases() -> Path:
    """Folder of captures that went wrong (``$SPLATSEG_CASES`` or ``../shared/cases``); skips where absent."""
    return shared_inputs("cases", "SPLATSEG_CASES", "captures that went wrong")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that hold a slow test come first: where files are dealt to workers, none is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """A CUDA context that has seen an illegal access answers every later call with the same error: xdist's worker ends
    here, and the next one goes on with the other tests."""
    report = yield
    if report.failed and "PYTEST_XDIST_WORKER" in os.environ and "CUDA error" in str(report.longrepr):
        print(f"{item.nodeid}\n{report.longrepr}", file=sys.stderr, flush=True)
        os._exit(3)
    return report


# A viewer's run and windows: the tests that ask for them need the viewer's extra, which these import.


@pytest.fixture
def known(tmp_path: Path) -> Any:
    """A run whose parts are known (``known_run.KnownRun``)."""
    from known_run import make_run

    return make_run(tmp_path)


@pytest.fixture
def viewer(known: Any) -> Iterator[Any]:
    """A viewer (``splatseg.viewer.Viewer``) of the known run."""
    from splatseg.viewer import ServerConfig, Viewer, ViewerConfig

    running = Viewer(known.workspace, ViewerConfig(ServerConfig(port=0)))
    yield running
    running.close()


@pytest.fixture
def window(known: Any, viewer: Any) -> Iterator[Any]:
    """A window (``viser_client.HeadlessWindow``) on it."""
    from viser_client import HeadlessWindow

    opened = HeadlessWindow(viewer.port, known.splat.camera)
    yield opened
    opened.close()
