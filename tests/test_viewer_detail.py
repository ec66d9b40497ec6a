"""How much of a large scene a window draws: the limit, what follows the camera, slow browsers, and the two themes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("viser", reason="the viewer's extra is not installed")

from known_run import KnownRun, make_run
from viser_client import PATIENCE, HeadlessWindow, wait_for

from splatseg.core.camera import Camera
from splatseg.core.field import FeatureField
from splatseg.core.splat import FeatureSplat
from splatseg.ops.reference.rasterize import shade
from splatseg.session import Session, Workspace
from splatseg.session.colors import Look, Painter
from splatseg.session.detail import MAX_BOOST, level_of_detail, sample
from splatseg.viewer import ServerConfig, Viewer, ViewerConfig
from splatseg.viewer import window as window_module
from splatseg.viewer.panels import view as view_module
from splatseg.viewer.splats import SplatNodes, SplatTemplate
from splatseg.viewer.window import FLUENT_SECONDS, limit_for

LIMITS = (50, 100, 200)


@pytest.fixture
def viewer(known: KnownRun, monkeypatch: pytest.MonkeyPatch) -> Iterator[Viewer]:
    monkeypatch.setattr(window_module, "LIMITS", LIMITS)
    monkeypatch.setattr(view_module, "LIMITS", LIMITS)
    running = Viewer(known.workspace, ViewerConfig(ServerConfig(port=0), 300))
    yield running
    running.close()


def test_a_sample_for_a_camera_is_dense_where_it_looks(known: KnownRun) -> None:
    gaussians, camera = known.splat.gaussians, known.splat.camera
    distance = (gaussians.means - camera.position).norm(dim=1)
    # a camera that stands close before part 0 and sees nothing else
    centers = gaussians.means[known.splat.parts == 0].mean(0)
    pose = camera.cam_from_world.clone()
    pose[:3, 3] = -pose[:3, :3] @ (centers + 0.15 * (camera.position - centers))
    close = type(camera)(camera.K, pose, camera.width, camera.height, camera.near)
    everywhere, there = sample(known.workspace, 100), sample(known.workspace, 100, close)
    assert torch.equal(everywhere.ids, level_of_detail(known.workspace, 100))
    assert torch.equal(there.ids, sample(known.workspace, 100, close).ids) and len(there.ids.unique()) == 100
    inside = close.project(gaussians.means)
    seen = ((inside[0] >= 0) & (inside[0] <= torch.tensor([48.0, 32.0]))).all(1) & (inside[1] > 0)
    assert 0 < int(seen.sum()) < 432 and float(distance.max()) > 0
    share = lambda found: float(seen[found.ids].sum()) / float(seen.sum())  # noqa: E731
    assert share(there) > 2 * share(everywhere)
    assert bool(((there.boost >= 1) & (there.boost <= MAX_BOOST)).all())
    assert float(there.boost[seen[there.ids]].mean()) < float(everywhere.boost.mean())
    assert (
        len(sample(known.workspace, 432, close).ids) == 432
        and float(sample(known.workspace, 432, close).boost.max()) == 1
    )


@pytest.mark.parametrize(
    ("seconds", "drawn", "limit"),
    [
        (0.0, 300_000, 300_000),
        (FLUENT_SECONDS, 300_000, 300_000),
        (FLUENT_SECONDS * 2.9, 300_000, 100_000),
        (FLUENT_SECONDS * 15, 300_000, 20_000),
        (FLUENT_SECONDS * 1e6, 300_000, 20_000),
    ],
)
def test_the_limit_follows_the_time_of_a_picture(seconds: float, drawn: int, limit: int) -> None:
    assert limit_for(seconds, drawn) == limit


class Scene:
    """Notes which nodes there are and which were given other buffers."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}

    def add_gaussian_splats(self, name: str, **arrays: Any) -> Any:
        scene = self

        class Node:
            buffer: Any = None

            def remove(self) -> None:
                del scene.nodes[name]

        self.nodes[name] = Node()
        return self.nodes[name]


def test_another_sample_of_the_same_size_takes_the_same_nodes(known: KnownRun) -> None:
    session, scene = Session(known.workspace), Scene()
    first = SplatTemplate(known.workspace, 100)
    nodes = SplatNodes(first, scene)
    nodes.show(Painter(session, first.ids).paint(Look()))
    before = dict(scene.nodes)
    for camera in (known.splat.camera, known.workspace.views[1].camera):
        other = SplatTemplate(known.workspace, 100, camera)
        nodes.change(other)
        assert nodes.show(Painter(session, other.ids).paint(Look())) == len(other.pieces)
        assert scene.nodes == before
        held = np.concatenate([node.buffer[:, :3] for node in scene.nodes.values()])
        assert np.array_equal(held, other.buffer[:, :3])
    fewer = SplatTemplate(known.workspace, 30)
    nodes.change(fewer)
    assert not scene.nodes
    nodes.show(Painter(session, fewer.ids).paint(Look()))
    assert len(scene.nodes) == len(fewer.pieces)


def test_the_limit_is_chosen_in_the_page_for_this_window(known: KnownRun, viewer: Viewer) -> None:
    window, second = (HeadlessWindow(viewer.port, known.splat.camera) for _ in range(2))
    try:
        wait_for("the limit", lambda: "drawing 300 of 432" in window.status)
        for text, count in (("100", "drawing 100 of 432"), ("all", "432 Gaussians"), ("50", "drawing 50 of 432")):
            window.put("Draw at most", text)
            wait_for(text, lambda count=count: count in window.status)
            window.click(*known.splat.pixel_of(2))
            wait_for("the part", lambda: window.selected == int((known.splat.parts == 2).sum()))
        assert "drawing 300 of 432" in second.status
    finally:
        window.close()
        second.close()


def test_the_sample_follows_the_camera_when_it_rests(known: KnownRun, viewer: Viewer) -> None:
    window = HeadlessWindow(viewer.port, known.splat.camera)
    try:
        (served,) = viewer.windows.values()
        window.put("Draw at most", "50")
        wait_for("the limit", lambda: "drawing 50 of 432" in window.status)
        for view in (known.workspace.views[1], known.workspace.views[0]):
            before, sent = served.template, window.pieces
            window.camera = view.camera
            window._send_camera()
            wait_for("another sample", lambda t=before, s=sent: served.template is not t and window.pieces > s)
            assert torch.equal(served.template.ids.sort().values, sample(known.workspace, 50, served.camera()).ids)
        window.put("Sharp where I look", False)
        wait_for(
            "the fair sample",
            lambda: torch.equal(served.template.ids.sort().values, level_of_detail(known.workspace, 50)),
        )
    finally:
        window.close()


@pytest.mark.parametrize(("seconds", "statement"), [(0.6, "drawing 50 of 432"), (0.0, "drawing 300 of 432")])
def test_a_slow_browser_is_given_less_to_draw(
    known: KnownRun, viewer: Viewer, monkeypatch: pytest.MonkeyPatch, seconds: float, statement: str
) -> None:
    monkeypatch.setattr(window_module, "FLUENT_SECONDS", 0.2)
    storage: dict[str, str] = {}
    window = HeadlessWindow(viewer.port, known.splat.camera, storage, picture_seconds=seconds)
    try:
        wait_for("what it draws", lambda: statement in window.status)
        if seconds:
            wait_for("a word on it", lambda: "s a picture" in window.status)
            window.put("Draw at most", "200")  # what is chosen stays, also when the page is loaded anew
            wait_for("the choice", lambda: "drawing 200 of 432" in window.status)
            window.close()
            wait_for("the end of the window", lambda: not viewer.windows)
            window = HeadlessWindow(viewer.port, known.splat.camera, storage, picture_seconds=seconds)
            wait_for("the choice", lambda: "drawing 200 of 432" in window.status)
            assert not any(thread.name == "splatseg-speed" for thread in window_module.threading.enumerate())
    finally:
        window.close()


def test_the_theme_is_light_or_dark_for_this_window(known: KnownRun, viewer: Viewer) -> None:
    window, second = (HeadlessWindow(viewer.port, known.splat.camera) for _ in range(2))
    try:
        for dark in (True, False, True):
            window.put("Dark", dark)
            wait_for("the theme", lambda dark=dark: window.dark is dark)
        assert second.dark is False
    finally:
        window.close()
        second.close()


@pytest.mark.parametrize("look", ["photo colors", "depth"])
def test_a_click_does_not_wait_for_the_camera_to_rest(
    known: KnownRun, viewer: Viewer, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    """The wait stood in the queue of the window's actions: a click on a sample, or on depth colors, made just after the
    camera had moved was done when that was over."""
    monkeypatch.setattr(window_module, "REST_SECONDS", 10 * PATIENCE)
    monkeypatch.setattr(window_module, "DEPTH_SECONDS", 10 * PATIENCE)
    window = HeadlessWindow(viewer.port, known.splat.camera)
    try:
        wait_for("the limit", lambda: "drawing 300 of 432" in window.status)
        window.put("Show", look)
        for number, view in enumerate((known.workspace.views[1], known.workspace.views[0])):
            window.camera = view.camera
            window._send_camera()
            chosen = known.splat.parts == 2 + 2 * number
            count = int(chosen.sum())
            ((u, v),) = view.camera.project(known.splat.gaussians.means[chosen].mean(0, keepdim=True))[0].tolist()
            window.click(u, v)
            wait_for("the part", lambda n=count: window.selected == n, patience=30)
    finally:
        window.close()


def test_colors_depend_on_where_the_camera_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the page at the switch, anew wherever the camera comes to rest, and the constant colors without it."""
    known = make_run(tmp_path)
    generator = torch.Generator().manual_seed(3)
    flat = known.splat.gaussians
    sh = torch.cat([flat.sh[:, :1], 0.3 * torch.randn(len(flat), 15, 3, generator=generator)], dim=1)
    glossy = replace(flat, sh=sh)
    splat = FeatureSplat(glossy, FeatureField(known.splat.field.features, glossy.fingerprint()))
    viewer = Viewer(Workspace(known.workspace.run, splat, known.workspace.scene), ViewerConfig(ServerConfig(port=0)))
    window = HeadlessWindow(viewer.port, known.splat.camera)
    try:
        (served,) = viewer.windows.values()
        ids = served.template.ids

        def shown(camera: Camera | None) -> bool:
            if camera is None:
                expected = glossy.base_colors[ids]
            else:
                expected = shade(glossy.means[ids], sh[ids], camera.cam_from_world, 3).clamp(0, 1)
            sent = served._nodes._shown
            rgb = np.stack([sent >> shift & 255 for shift in (0, 8, 16)], axis=1).astype(float)
            return bool(np.abs(rgb - 255 * expected.numpy()).max() <= 1.01)

        wait_for("the constant colors", lambda: shown(None))
        for view in (known.workspace.views[1], known.workspace.views[0]):
            window.put("View-dependent colors", True)
            window.camera = view.camera
            window._send_camera()
            wait_for("the colors from there", lambda c=view.camera: shown(c))
            window.put("View-dependent colors", False)
            wait_for("the constant colors", lambda: shown(None))
    finally:
        window.close()
        viewer.close()
    front, side = (Painter(Session(viewer.workspace), ids).paint(Look(), view.camera) for view in known.workspace.views)
    assert not np.array_equal(front, side)
