"""render/gsplat.py over gsplat's own Python, of which only the compiled functions are replaced (gsplat_compiled.py).

What gsplat's wrappers refuse, pad and hook is met here without a GPU; values are compared in test_render_gsplat.py.
"""

from __future__ import annotations

import gsplat_compiled
import pytest
import torch
from gsplat.cuda import _wrapper
from gsplat_compiled import ABSOLUTE_GRAD, MEANS2D_GRAD
from test_trace import scene
from torch import Tensor

from splatseg.ops.trace_tiles import TileLists
from splatseg.render import Means2dProbe, RenderConfig, Rendered, backends, render, trace
from splatseg.render import gsplat as backend

N, WIDTH, HEIGHT = 40, 70, 45
BACKGROUNDS = [(0.0, 0.0, 0.0), (0.1, 0.5, 0.9)]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return gsplat_compiled.install(monkeypatch)


def draw(dim: int | None, config: RenderConfig, probe: Means2dProbe | None) -> tuple[dict[str, Tensor], Rendered]:
    """Leaves, and what was drawn of them."""
    gaussians, camera = scene(N, WIDTH, HEIGHT)
    leaves = {name: t.clone().requires_grad_() for name, t in gaussians.tensors().items()}
    features = None if dim is None else torch.rand(N, dim).requires_grad_()
    drawn = render(type(gaussians)(**leaves), camera, features, config, probe)
    return leaves if features is None else {**leaves, "features": features}, drawn


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("absgrad", [False, True])
@pytest.mark.parametrize("dim", [None, 16, 24, 40])
@pytest.mark.parametrize("packed", [False, True])
def test_draws_and_goes_back(
    packed: bool, dim: int | None, absgrad: bool, background: tuple[float, float, float]
) -> None:
    """Twice: shapes, the channels that end in each output, the background's share, a gradient for every leaf."""
    for _ in range(2):
        probe = Means2dProbe.zeros(N, "cpu") if absgrad else None
        leaves, drawn = draw(dim, RenderConfig(packed=packed, background=background), probe)
        alpha = torch.linspace(0, 1, WIDTH).expand(HEIGHT, WIDTH)
        torch.testing.assert_close(drawn.alpha, alpha)
        shared = torch.arange(3.0) + (1 - alpha)[..., None] * torch.tensor(background)
        torch.testing.assert_close(drawn.color, shared)
        assert drawn.depth.shape == (HEIGHT, WIDTH) and (drawn.features is None) == (dim is None)
        if dim is not None and drawn.features is not None:
            # Channels of an image are drawn at most 32 at a time, beside absgrad all at once.
            number = torch.arange(3.0, 3 + dim)
            assert torch.equal(drawn.features, (number if absgrad else number % 32).expand(HEIGHT, WIDTH, dim))
        assert torch.equal(drawn.radii, (torch.arange(N) % 2 == 0).int()[:, None].expand(N, 2))
        outputs = [drawn.color, drawn.alpha, drawn.depth, *([] if drawn.features is None else [drawn.features])]
        sum(t.sum() for t in outputs).backward()
        assert all(t.grad is not None and bool(t.grad.any()) for t in leaves.values())


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("dim", [None, 16, 40])
@pytest.mark.parametrize("packed", [False, True])
def test_probe_gets_the_gradient_of_projected_means(packed: bool, dim: int | None) -> None:
    """Packed rows go back to their Gaussians, and those that were not drawn get none."""
    probe = Means2dProbe.zeros(N, "cpu")
    _, drawn = draw(dim, RenderConfig(packed=packed, background=(0.1, 0.5, 0.9)), probe)
    drawn.color.sum().backward()
    drawn_rows = (torch.arange(N) % 2 == 0)[:, None] if packed else torch.ones(N, 1, dtype=torch.bool)
    for leaf, value in ((probe.means2d, MEANS2D_GRAD), (probe.absgrad, ABSOLUTE_GRAD)):
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, (value * drawn_rows).expand(N, 2))


def test_background_is_blended_where_gsplat_refuses_it(calls: list[str]) -> None:
    """gsplat 1.5.3's packed mode takes backgrounds of no shape (its issues 764 and 826): ours must not reach it."""
    _, drawn = draw(16, RenderConfig(packed=True, background=(0.1, 0.5, 0.9)), None)
    assert calls.count("rasterize_to_pixels_3dgs_fwd") == 1 and drawn.color.isfinite().all()
    n, channels = N // 2, 32
    tensors = torch.zeros(n, 2), torch.zeros(n, 3), torch.zeros(n, channels), torch.zeros(n)
    lists = torch.zeros(1, 3, 5, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
    with pytest.raises(AssertionError):
        _wrapper.rasterize_to_pixels(
            *tensors, WIDTH, HEIGHT, 16, *lists, backgrounds=torch.zeros(1, channels), packed=True
        )


def test_trace_hands_over_lists(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes, types and layout that ops.trace_tiles takes; nothing is rasterized."""
    given: list[TileLists] = []

    def keep(lists: TileLists, size: tuple[int, int], pixels: Tensor, min_weight: float, check: bool) -> None:
        assert size == (WIDTH, HEIGHT) and min_weight == 1e-3 and check
        given.append(lists)

    monkeypatch.setattr(backend, "trace_tiles", keep)
    gaussians, camera = scene(N, WIDTH, HEIGHT)
    trace(gaussians, camera, torch.zeros(3, 2, dtype=torch.int32))
    lists = given[0]
    for tensor, shape in ((lists.means2d, (N, 2)), (lists.conics, (N, 3)), (lists.opacities, (N,))):
        assert tensor.shape == shape and tensor.dtype == torch.float32 and tensor.is_contiguous()
    assert lists.offsets.tolist() == [0] + [N // 2] * 14 and lists.offsets.dtype == torch.int32
    assert lists.list.tolist() == list(range(0, N, 2)) and lists.list.dtype == torch.int32
    assert calls == ["projection_ewa_3dgs_fused_fwd", "intersect_tile", "intersect_offset"]


def test_traces_through_the_lists(calls: list[str]) -> None:
    """The same with the op itself: the rows of Gaussians that were not drawn, NaN here, are never read."""
    gaussians, camera = scene(N, WIDTH, HEIGHT)
    found = trace(gaussians, camera, torch.tensor([[0, 0], [69, 44], [3, 2]]), 0.0)
    assert len(found) == 3 and found.weights.isfinite().all() and (found.ids % 2 == 0).all()
    assert found.offsets[-1] == len(found.ids) and calls


def test_nothing_of_the_stand_ins_is_left() -> None:
    """After tests that used them: gsplat's own functions, and the CPU's own backend."""
    with pytest.MonkeyPatch.context() as patch:
        gsplat_compiled.install(patch)
        assert _wrapper._make_lazy_cuda_func.__module__ == "gsplat_compiled"
    assert _wrapper._make_lazy_cuda_func.__module__ == "gsplat.cuda._wrapper"
    assert backends.BACKENDS["cpu"] == "splatseg.render.cpu"
