"""What clicks would take all over a picture, area by area."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_run import KnownRun, make_run
from scipy.ndimage import binary_erosion

from splatseg.core.errors import SplatsegError
from splatseg.render import trace
from splatseg.segment.clicks import EMPTY_ALPHA
from splatseg.session import Session
from splatseg.session.areas import MOST, SMALLEST, Areas, foremost


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> KnownRun:
    return make_run(tmp_path_factory.mktemp("areas"))


def all_of(areas: Areas) -> list[np.ndarray]:
    while areas.step():
        pass
    return areas.found


def center(areas: Areas, cell: np.ndarray) -> tuple[float, float]:
    """Image position in the middle of a cell (row, column)."""
    row, column = cell.tolist()
    return (column + 0.5) * areas.edge, (row + 0.5) * areas.edge


@pytest.mark.parametrize("whole_labels", [False, True])
def test_a_click_anywhere_in_an_area_takes_what_the_area_shows(known: KnownRun, whole_labels: bool) -> None:
    session, camera = Session(known.workspace), known.splat.camera.resized(480, 320)
    if whole_labels:
        session.discretize()
        session.set_label_level(session.tree.levels - 1)  # type: ignore[union-attr]
    look = session.preview_label if whole_labels else session.preview
    for _ in range(2):
        step = session.step
        areas = Areas(session, camera, whole_labels)
        found = all_of(areas)
        assert session.step is step and len(found) == 6, "six parts are seen, and nothing is changed"
        assert np.sum(found, axis=0).max() == 1, "no two share a cell"
        empty = ~np.any(found, axis=0)
        for cells in found:
            places = np.argwhere(cells)
            inner = np.argwhere(binary_erosion(cells, iterations=2))  # on its border, features are of both sides
            taken = look(camera, *center(areas, inner[0]))
            for cell in inner[:: max(1, len(inner) // 5)]:
                assert look(camera, *center(areas, cell)) == taken
            spot = np.array([[int(v) for v in center(areas, cell)] for cell in places])
            shown = foremost(known.splat.gaussians, camera, torch.from_numpy(spot).int())
            assert taken.mask[shown].all(), "what is seen there is in it"
        corner = np.argwhere(empty)[0]
        with pytest.raises(SplatsegError, match="empty space"):
            look(camera, *center(areas, corner))


def test_hidden_things_are_no_areas(known: KnownRun) -> None:
    session, camera = Session(known.workspace), known.splat.camera.resized(480, 320)
    for _ in range(2):
        session.click("front", *known.splat.pixel_of(0))
        hidden = session.hide_selection()
        assert len(all_of(Areas(session, camera, False))) == 5
        session.show(hidden.id)
        assert len(all_of(Areas(session, camera, False))) == 6
        session.delete(hidden.id)


def test_the_foremost_is_that_with_most_weight(known: KnownRun) -> None:
    camera, gaussians = known.splat.camera, known.splat.gaussians
    pixels = torch.cartesian_prod(torch.arange(camera.width), torch.arange(camera.height)).int()
    seen = trace(gaussians, camera, pixels)
    expected = torch.full((len(pixels),), -1)
    for row in range(len(pixels)):
        span = slice(int(seen.offsets[row]), int(seen.offsets[row + 1]))
        if float(seen.weights[span].sum()) >= EMPTY_ALPHA:
            expected[seen.order[row]] = int(seen.ids[span][seen.weights[span].argmax()])
    found = foremost(gaussians, camera, pixels)
    weights = torch.zeros(len(pixels), len(gaussians))
    rows = seen.order.repeat_interleave(seen.offsets.diff())
    weights[rows, seen.ids.long()] = seen.weights
    assert torch.equal(found < 0, expected < 0) and 0 < int((found < 0).sum()) < len(pixels)
    at = (found >= 0).nonzero()[:, 0]
    assert torch.equal(weights[at, found[at]], weights[at, expected[at]])  # ties may be broken either way


def test_no_more_than_so_many_clicks_are_tried(known: KnownRun, monkeypatch: pytest.MonkeyPatch) -> None:
    session, camera = Session(known.workspace), known.splat.camera.resized(480, 320)
    tried: list[object] = []

    def nothing(*where: object) -> object:
        tried.append(where)
        raise SplatsegError("click: expected something, found empty space")

    monkeypatch.setattr(session, "preview", nothing)
    areas = Areas(session, camera, False)
    assert all_of(areas) == [] and 0 < len(tried) <= MOST and SMALLEST > 0
    assert len(set(tried)) == len(tried), "each elsewhere"
