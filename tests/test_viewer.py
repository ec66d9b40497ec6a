"""The viewer below its widgets: cameras, the drawn buffer, what is sent, the order of actions, the command line."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("viser", reason="the viewer's extra is not installed")

from known_run import KnownRun
from script_runner import run_script

from splatseg.core.camera import Camera
from splatseg.core.morton import morton_order
from splatseg.session import Session
from splatseg.session.colors import Look, Painter
from splatseg.viewer.convert import browser_camera, overview_pose, scene_up, splat_buffer, unit_scale, view_pose
from splatseg.viewer.queue import ActionQueue
from splatseg.viewer.splats import SplatNodes, SplatTemplate

ROOT = Path(__file__).parent.parent


def turned_camera() -> Camera:
    """A camera that looks neither along an axis nor upright."""
    axis = torch.tensor([0.3, -0.5, 0.2])
    skew = torch.tensor([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    cam_from_world = torch.eye(4)
    cam_from_world[:3, :3] = torch.linalg.matrix_exp(skew)
    cam_from_world[:3, 3] = torch.tensor([0.4, -0.2, 3.0])
    return Camera(torch.tensor([[300.0, 0, 160], [0, 300.0, 120], [0, 0, 1]]), cam_from_world, 320, 240)


def quaternion_of_pose(position: np.ndarray, look_at: np.ndarray, up: np.ndarray) -> np.ndarray:
    """wxyz from camera (OpenCV axes) to world, as viser's client computes it."""
    from scipy.spatial.transform import Rotation

    forward = (look_at - position) / np.linalg.norm(look_at - position)
    right = np.cross(forward, up) / np.linalg.norm(np.cross(forward, up))
    matrix = np.stack([right, np.cross(forward, right), forward], axis=1)
    return Rotation.from_matrix(matrix).as_quat(scalar_first=True)


def test_going_to_a_photo_shows_what_the_photo_shows() -> None:
    camera = turned_camera()
    pose = view_pose(camera, 3.0)
    wxyz = quaternion_of_pose(pose.position, pose.look_at, pose.up)
    browser = browser_camera(pose.position, wxyz, pose.fov, 640, 480)
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    ours, depth = camera.project(points)
    theirs, same_depth = browser.project(points)
    torch.testing.assert_close(theirs, 2 * ours, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(same_depth, depth, rtol=1e-4, atol=1e-4)


def test_overview_sees_the_splat_and_up_is_against_y(known: KnownRun) -> None:
    pose = overview_pose(known.splat.gaussians)
    camera = browser_camera(pose.position, quaternion_of_pose(pose.position, pose.look_at, pose.up), pose.fov, 400, 300)
    image, depth = camera.project(known.splat.gaussians.means)
    inside = (depth > 0) & (image >= 0).all(1) & (image[:, 0] < 400) & (image[:, 1] < 300)
    assert float(inside.float().mean()) > 0.9
    assert known.workspace.scene is not None
    np.testing.assert_allclose(scene_up(known.workspace.scene), [0, -1, 0], atol=1e-6)


def test_buffer_holds_centers_and_covariances_of_tiny_scenes(known: KnownRun) -> None:
    """Standard deviations of 1e-5 have variances that float16 cannot hold: the scale must rescue them."""
    from dataclasses import replace

    tiny = replace(
        known.splat.gaussians,
        means=known.splat.gaussians.means * 1e-4,
        log_scales=known.splat.gaussians.log_scales + np.log(1e-4) + torch.tensor([0.0, 0.5, -0.5]),
        quats=torch.nn.functional.normalize(torch.randn(len(known.workspace), 4), dim=1) * 3,
    )
    scale = unit_scale(tiny)
    buffer = splat_buffer(tiny, scale)
    centers = np.ascontiguousarray(buffer[:, :3]).view(np.float32) / scale
    np.testing.assert_allclose(centers, tiny.means.numpy(), rtol=1e-5, atol=1e-9)
    upper = np.ascontiguousarray(buffer[:, 4:7]).view(np.float16).astype(np.float64) / scale**2
    trace = upper[:, 0] + upper[:, 3] + upper[:, 5]
    np.testing.assert_allclose(trace, (tiny.scales**2).sum(1).numpy(), rtol=3e-3)


class FakeScene:
    """Counts what a browser would be sent."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}

    def add_gaussian_splats(self, name: str, **arrays: Any) -> Any:
        self.nodes[name] = SimpleNamespace(**arrays)
        return self.nodes[name]


def test_only_pieces_whose_colors_changed_are_sent(known: KnownRun) -> None:
    session = Session(known.workspace)
    template = SplatTemplate(known.workspace, 10**6)
    assert sorted(template.ids.tolist()) == list(range(len(known.workspace)))
    scene = FakeScene()
    nodes, painter = SplatNodes(template, scene), Painter(session, template.ids)
    look = Look(dim=False)
    assert nodes.show(painter.paint(look)) == len(template.pieces) == len(scene.nodes)
    assert nodes.show(painter.paint(look)) == 0
    session.click("front", *known.splat.pixel_of(2))
    sent = nodes.show(painter.paint(look))
    assert 0 < sent < len(template.pieces) / 2
    packed = painter.paint(look)
    for (start, end), node in zip(template.pieces, scene.nodes.values(), strict=True):
        if hasattr(node, "buffer"):
            assert np.array_equal(node.buffer[:, 7], packed[start:end])
    session.clear()
    assert nodes.show(painter.paint(look)) == sent


def test_large_scenes_are_sampled_and_the_status_says_so(known: KnownRun) -> None:
    template = SplatTemplate(known.workspace, 100)
    assert len(template.ids) == 100 and "drawing 100 of 432" in template.statement
    assert template.statement.endswith("selection works on all")
    assert SplatTemplate(known.workspace, 432).statement == "432 Gaussians"


def test_morton_order_keeps_neighbors_together() -> None:
    points = torch.rand(4096, 3, generator=torch.Generator().manual_seed(0))
    order = morton_order(points)
    assert sorted(order.tolist()) == list(range(4096))
    steps = (points[order][1:] - points[order][:-1]).norm(dim=1).mean()
    assert float(steps) < 0.15  # 0.66 for a random order
    assert len(morton_order(torch.zeros(0, 3))) == 0
    assert sorted(morton_order(torch.ones(5, 3)).tolist()) == list(range(5))


def test_mailbox_keeps_the_order_and_drops_outdated_slider_values() -> None:
    done: list[object] = []
    gate = threading.Event()
    box = ActionQueue("test")
    box.post(lambda: gate.wait(5) and done.append("first"))
    for value in range(5):
        box.post(lambda value=value: done.append(value), "slider")
    box.post(lambda: done.append("last"))
    assert box.waiting("slider")
    gate.set()
    assert box.wait_idle(5) and done == ["first", 4, "last"] and not box.waiting("slider")
    box.close()


def test_mailbox_outlives_a_failing_action(caplog: pytest.LogCaptureFixture) -> None:
    done = []
    box = ActionQueue("test")
    box.post(lambda: 1 / 0)
    box.post(lambda: done.append(1))
    assert box.wait_idle(5) and done == [1] and "ZeroDivisionError" in caplog.text
    box.close()
    box.post(lambda: done.append(2))
    time.sleep(0.05)
    assert done == [1]


def view(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "scripts" / "view.py"), *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SPLATSEG_PASSWORD": "", **environment}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=env,
        # A test run in the background of a shell inherits an ignored Ctrl-C, and so would the viewer.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def refusal(code: int, error: str) -> str:
    """The one line on stderr of a viewer that does not start."""
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in error, error
    return lines[0]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """``refused(arguments...)``: what the script says when it is run in this process and does not start."""
    monkeypatch.setenv("SPLATSEG_PASSWORD", "")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield lambda *arguments: refusal(run_script("view.py", *arguments), capfd.readouterr().err)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("asked", [(), ("--token",)])
def test_a_local_viewer_lets_in_who_has_its_address(known: KnownRun, asked: tuple[str, ...]) -> None:
    """On f581d69 every user of the machine was let in."""
    process = view(str(known.workspace.run.folder), "--port", "0", *asked)
    try:
        assert process.stdout is not None
        while (
            found := re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S{20,})", line := process.stdout.readline())
        ) is None:
            assert line, process.communicate()[1]
        port, token = int(found[1]), found[2]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
            assert b"password" in page.read() and page.status == 200  # the login, not viser's page
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/?token=guess")
        with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(
            f"http://127.0.0.1:{port}/?token={token}"
        ) as page:
            assert len(page.read()) > 3000
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)


def test_bad_starts_are_one_line_and_exit_code_2(known: KnownRun, refused: Callable[..., str]) -> None:
    """A taken port, found last of all, in a process of its own: that it ends, whatever threads have been started."""
    folder = str(known.workspace.run.folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        _, error = (process := view(folder, "--port", str(port))).communicate(timeout=120)
        assert f"{port} is already in use" in refusal(process.returncode, error)
    assert "run folder" in refused(folder + "-not")
    assert "one of the two" in refused(folder, "--password", "--token")
    assert "one of the two" in refused(folder, "--password", "--no-token")
    assert "SPLATSEG_PASSWORD" in refused(folder, "--password")
    assert "--allow-host" in refused(folder, "--port", "0", "--allow-host", "https://viewer.lab/")


@pytest.mark.parametrize("guarded", [False, True])
def test_a_host_open_to_others_warns_that_there_is_no_login(known: KnownRun, guarded: bool) -> None:
    process = view(
        str(known.workspace.run.folder), "--host", "0.0.0.0", "--port", "0", *([] if guarded else ["--no-token"])
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        line = ""
        while "http://" not in line:
            line = process.stdout.readline()
            assert line or process.poll() is None, process.stderr.read()
        assert ("?token=" in line) is guarded
    finally:
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert ("no login" in error) is not guarded
    assert process.returncode == 130
