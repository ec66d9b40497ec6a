"""The rasterizer against its reference, against gsplat's own PyTorch code, and against its laws."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gsplat.cuda import _torch_impl as gsplat_torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.ops.extension import compiled
from splatseg.ops.rasterize import Means2dProbe, RenderConfig, Rendered, Splats, rasterize
from splatseg.ops.reference import rasterize as reference

needs_extension = pytest.mark.skipif(not compiled(), reason="splatseg._C is not built")
NAMES = ("means", "quats", "scales", "opacities", "sh", "features", "means2d", "absgrad")


def make_camera(width: int, height: int, dtype: torch.dtype = torch.float64) -> Camera:
    """Slightly turned and moved, principal point off the center."""
    angle = torch.tensor(0.2, dtype=dtype)
    pose = torch.eye(4, dtype=dtype)
    pose[0, 0] = pose[2, 2] = angle.cos()
    pose[0, 2], pose[2, 0] = angle.sin(), -angle.sin()
    pose[:3, 3] = torch.tensor([0.1, -0.2, 4.0])
    K = torch.tensor([[0.9 * width, 0, 0.45 * width], [0, 1.1 * width, 0.55 * height], [0, 0, 1]], dtype=dtype)
    return Camera(K, pose, width, height)


def make_splats(n: int, degree: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Splats:
    """Random Gaussians around the origin: some outside the image, some clamping alpha, enough to end pixels."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    opacities = rand(n)
    opacities[::5] = 0.9999
    sh = randn(n, (degree + 1) ** 2, 3) * 0.5
    splats = Splats(randn(n, 3), randn(n, 4), 0.05 + 0.4 * rand(n, 3), opacities, sh)
    return Splats(*(t.to(dtype) for t in vars(splats).values()))


def call(
    splats: Splats, camera: Camera, features: Tensor | None, config: RenderConfig, probe: Means2dProbe | None
) -> tuple:
    """Positional arguments of the op and of its reference."""
    degree = {1: 0, 4: 1, 9: 2, 16: 3}[splats.sh.shape[1]] if config.sh_degree is None else config.sh_degree
    background = torch.tensor(config.background, dtype=splats.means.dtype)
    leaves = (None, None) if probe is None else (probe.means2d, probe.absgrad)
    tensors = [getattr(splats, f.name) for f in fields(splats)]
    numbers = (camera.width, camera.height, degree, config.eps2d, *config.depths(camera))
    return (*tensors, features, *leaves, camera.K, camera.cam_from_world, background, *numbers)


def leaves_of(splats: Splats, channels: int | None, seed: int = 1) -> tuple[Splats, Tensor | None, Means2dProbe]:
    """Copies that require gradients, with features and a probe."""
    n, dtype = len(splats.means), splats.means.dtype
    copies = Splats(*(getattr(splats, f.name).clone().requires_grad_() for f in fields(splats)))
    features = None
    if channels is not None:
        g = torch.Generator().manual_seed(seed)
        features = torch.randn(n, channels, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    zeros = [torch.zeros(n, 2, dtype=dtype, requires_grad=True) for _ in range(2)]
    return copies, features, Means2dProbe(*zeros)


def objective(outputs: tuple[Tensor, ...], seed: int = 2) -> Tensor:
    """A random linear functional of color, alpha, depth and feature map: one backward checks all of them."""
    g = torch.Generator().manual_seed(seed)
    return sum((o * torch.randn(o.shape, generator=g, dtype=torch.float64).to(o)).sum() for o in outputs[:4])


def gradients(run, splats: Splats, camera: Camera, channels: int | None, config: RenderConfig) -> tuple:
    """Outputs and a name -> gradient dictionary of ``run`` (op or reference)."""
    copies, features, probe = leaves_of(splats, channels)
    outputs = run(*call(copies, camera, features, config, probe))[:5]
    objective(outputs).backward()
    tensors = [getattr(copies, f.name) for f in fields(copies)] + [features, probe.means2d, probe.absgrad]
    return outputs, {name: t.grad for name, t in zip(NAMES, tensors, strict=True) if t is not None}


def assert_agrees(found: Tensor, expected: Tensor, relative: float, name: str) -> None:
    """Largest error below ``relative`` times the largest magnitude."""
    assert found.shape == expected.shape, f"{name}: {found.shape} is not {expected.shape}"
    if expected.numel() == 0:
        return
    error = float((found.detach().double() - expected.detach().double()).abs().max())
    scale = float(expected.detach().double().abs().max())
    assert error <= relative * max(scale, 1e-12), f"{name}: error {error:.3g} of scale {scale:.3g}"


@needs_extension
@pytest.mark.parametrize(
    ("degree", "channels"), [(0, 3), (1, None), (2, 3), (3, None), (3, 1), (3, 3), (3, 8), (3, 16), (3, 19)]
)
def test_double_agrees_with_reference(degree: int, channels: int | None) -> None:
    """All outputs and gradients; 37 x 21 is no multiple of 16; channel counts around the vector width of 8."""
    splats, camera = make_splats(60, degree), make_camera(37, 21)
    config = RenderConfig(background=(0.3, 0.6, 0.1))
    outputs, grads = gradients(torch.ops.splatseg.rasterize, splats, camera, channels, config)
    expected, expected_grads = gradients(reference.rasterize, splats, camera, channels, config)
    for name, a, b in zip(("color", "alpha", "depth", "feature_map"), outputs, expected, strict=False):
        assert_agrees(a, b, 1e-11, name)
    assert torch.equal(outputs[4], expected[4])
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        assert expected_grads[name].abs().max() > 0, f"{name}: the scene does not exercise this gradient"
        assert_agrees(grad, expected_grads[name], 1e-9, name)


@needs_extension
def test_scene_reaches_the_branches() -> None:
    """The scene compared above clamps alpha, fills pixels and leaves Gaussians undrawn: else it would prove little."""
    splats, camera = make_splats(60), make_camera(37, 21)
    args = call(splats, camera, None, RenderConfig(), None)
    _, alpha, _, _, radii = reference.rasterize(*args)
    assert alpha.max() > 1 - 2e-3
    assert (radii == 0).all(dim=1).any()
    assert (1 - alpha).min() > reference.MIN_TRANSMITTANCE


@needs_extension
@pytest.mark.parametrize(("most_opaque", "slack"), [(0.9, 5e-6), (1.0, 1e-4)])
def test_float_within_twice_torchs_own_error(most_opaque: float, slack: float) -> None:
    """float32 may differ from double by twice what the reference itself loses in float32, plus a slack of rounding.

    What lies behind a splat is total - front, known to about 6e-8 of the total, and is divided by 1 - alpha: ten times
    that at alpha 0.9, a thousand times at the clamp of 0.999.
    """
    splats, camera, config = make_splats(200), make_camera(64, 48), RenderConfig(background=(0.2, 0.2, 0.2))
    splats = replace(splats, opacities=splats.opacities.clamp_max(most_opaque))
    single = Splats(*(getattr(splats, f.name).float() for f in fields(splats)))
    exact = Splats(*(getattr(single, f.name).double() for f in fields(single)))
    truth, truth_grads = gradients(reference.rasterize, exact, camera, 16, config)
    torch32, torch32_grads = gradients(reference.rasterize, single, camera, 16, config)
    found, found_grads = gradients(torch.ops.splatseg.rasterize, single, camera, 16, config)
    pairs = [
        (n, f, t, r) for n, f, t, r in zip(("color", "alpha", "depth", "map"), found, truth, torch32, strict=False)
    ]
    pairs += [(n, found_grads[n], truth_grads[n], torch32_grads[n]) for n in found_grads]
    for name, value, true, rounded in pairs:
        own = float((rounded.double() - true).detach().abs().max() / true.detach().abs().max())
        assert_agrees(value, true, 2 * own + slack, name)


@needs_extension
@pytest.mark.parametrize("n", [1, 9])
def test_gradcheck(n: int) -> None:
    """Against finite differences; one Gaussian alone and a group with a tail (9 = 8 + 1)."""
    g = torch.Generator().manual_seed(3)
    means = torch.randn(n, 3, generator=g, dtype=torch.float64) * 0.5
    splats = replace(make_splats(n, degree=2, seed=3), means=means)
    splats = replace(splats, opacities=torch.linspace(0.3, 0.6, n, dtype=torch.float64))
    # Smooth only where no pixel crosses 1/255: Gaussians far wider than the 5 x 4 image.
    splats = replace(splats, scales=splats.scales + 2)
    camera = make_camera(5, 4)
    copies, features, probe = leaves_of(splats, 3)
    fixed = call(copies, camera, features, RenderConfig(), probe)

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.ops.splatseg.rasterize(*tensors, None, *fixed[8:])[:4]

    assert torch.autograd.gradcheck(run, fixed[:7], eps=1e-6, atol=1e-6)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_agrees_with_gsplat(dtype: torch.dtype) -> None:
    """Projected means, conics and depths as gsplat's PyTorch code has them; radii at most its opacity-blind ones."""
    splats, camera = make_splats(300, dtype=dtype), make_camera(80, 60, dtype)
    covars, _ = gsplat_torch._quat_scale_to_covar_preci(splats.quats, splats.scales, True, False)
    radii, means2d, depths, conics, _ = gsplat_torch._fully_fused_projection(
        splats.means, covars, camera.cam_from_world[None], camera.K[None], camera.width, camera.height
    )
    outputs = torch.ops.splatseg.rasterize(*call(splats, camera, None, RenderConfig(), None))
    drawn = (outputs[4] > 0).all(dim=1)
    assert drawn.sum() > 100
    assert (outputs[4][drawn] <= radii[0][drawn] + (dtype == torch.float32)).all()
    records = outputs[5].view(dtype)
    boxed = drawn & (records[:, 0] != 0)
    log2e = 1.4426950408889634
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    assert_agrees(records[boxed, :2], means2d[0][boxed], tolerance, "means2d")
    scale = torch.tensor([-2 / log2e, -1 / log2e, -2 / log2e], dtype=dtype)
    assert_agrees(records[boxed, 2:5] * scale, conics[0][boxed], tolerance, "conics")
    depth_column = 10 if dtype == torch.float64 else 11
    assert_agrees(records[boxed, depth_column], depths[0][boxed], tolerance, "depths")


def test_reference_projection_agrees_with_gsplat() -> None:
    """Also where the Jacobian's point is clamped to the widened frustum (means far to the side)."""
    splats, camera = make_splats(300), make_camera(80, 60)
    splats = replace(splats, means=splats.means * 3)
    centers, cov, depths = reference.project(
        splats.means, splats.quats, splats.scales, camera.K, camera.cam_from_world, (80, 60), 0.3
    )
    covars, _ = gsplat_torch._quat_scale_to_covar_preci(splats.quats, splats.scales, True, False)
    _, means2d, z, conics, _ = gsplat_torch._fully_fused_projection(
        splats.means, covars, camera.cam_from_world[None], camera.K[None], 80, 60
    )
    ahead = z[0] > 0.1
    assert ((centers[ahead, 0] < -20) | (centers[ahead, 0] > 100)).any()
    assert_agrees(centers[ahead], means2d[0][ahead], 1e-12, "means2d")
    conic = torch.linalg.inv(cov)[:, [0, 0, 1], [0, 1, 1]]
    assert_agrees(conic[ahead], conics[0][ahead], 1e-9, "conics")
    assert_agrees(depths, z[0], 1e-12, "depths")


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_reference_harmonics_agree_with_gsplat(degree: int) -> None:
    """Used degrees below the stored one too: 16 coefficients are stored."""
    splats, camera = make_splats(50), make_camera(8, 8)
    found = reference.shade(splats.means, splats.sh, camera.cam_from_world, degree)
    colors = gsplat_torch._spherical_harmonics(degree, splats.means - camera.position, splats.sh)
    assert_agrees(found, (colors + 0.5).clamp_min(0), 1e-12, "colors")


@needs_extension
def test_partial_degree_leaves_upper_gradients_zero() -> None:
    """The degree schedule of the fit: degree 1 used, 3 stored."""
    splats, camera, config = make_splats(40), make_camera(32, 32), RenderConfig(sh_degree=1)
    _, grads = gradients(torch.ops.splatseg.rasterize, splats, camera, None, config)
    _, expected = gradients(reference.rasterize, splats, camera, None, config)
    assert (grads["sh"][:, 4:] == 0).all()
    assert_agrees(grads["sh"], expected["sh"], 1e-9, "sh")


@needs_extension
@pytest.mark.parametrize("channels", [None, 16])
def test_threads_do_not_change_a_bit(channels: int | None) -> None:
    """Enough Gaussians that binning splits into several shares (4096 each)."""
    splats = make_splats(20000, dtype=torch.float32)
    splats = replace(splats, scales=splats.scales * 0.1, opacities=splats.opacities * 0.3)
    camera, config, before = make_camera(100, 70), RenderConfig(), torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outputs, grads = gradients(torch.ops.splatseg.rasterize, splats, camera, channels, config)
            runs.append([*outputs, *grads.values()])
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            assert torch.equal(a, b)


@needs_extension
def test_order_of_gaussians_does_not_matter() -> None:
    """Permuting distinct depths permutes gradients and changes no image."""
    splats, camera, config = make_splats(80), make_camera(40, 40), RenderConfig()
    order = torch.randperm(80, generator=torch.Generator().manual_seed(5))
    shuffled = Splats(*(getattr(splats, f.name)[order] for f in fields(splats)))
    outputs, grads = gradients(torch.ops.splatseg.rasterize, splats, camera, None, config)
    other, other_grads = gradients(torch.ops.splatseg.rasterize, shuffled, camera, None, config)
    assert torch.equal(outputs[0], other[0])
    for name, grad in grads.items():
        assert_agrees(other_grads[name], grad[order], 1e-12, name)


@needs_extension
def test_features_blend_like_colors() -> None:
    """Features equal to the colors give the color image on black: one set of weights serves both."""
    splats, camera = make_splats(80), make_camera(40, 40)
    colors = reference.shade(splats.means, splats.sh, camera.cam_from_world, 3)
    drawing = rasterize(splats, camera, colors)
    assert drawing.features is not None
    assert_agrees(drawing.features, drawing.color, 1e-12, "features")


@needs_extension
def test_features_alone_get_gradients() -> None:
    """Frozen geometry: the features-only walk agrees with the full one."""
    splats, camera = make_splats(80), make_camera(40, 40)
    copies, features, probe = leaves_of(splats, 16)
    assert features is not None
    objective(torch.ops.splatseg.rasterize(*call(copies, camera, features, RenderConfig(), probe))).backward()
    alone = features.detach().clone().requires_grad_()
    objective(torch.ops.splatseg.rasterize(*call(splats, camera, alone, RenderConfig(), None))).backward()
    assert alone.grad is not None and features.grad is not None
    assert_agrees(alone.grad, features.grad, 1e-12, "features")


@needs_extension
@pytest.mark.parametrize("output", ["color", "alpha", "depth", "features"])
def test_one_output_alone(output: str) -> None:
    """A loss on one output leaves the other gradients undefined in backward: absent must mean zero."""
    splats, camera = make_splats(60), make_camera(37, 21)
    results = []
    for run in (torch.ops.splatseg.rasterize, reference.rasterize):
        copies, features, _ = leaves_of(splats, 5)
        outputs = Rendered(*run(*call(copies, camera, features, RenderConfig(), None))[:3], None, torch.empty(0))
        value = run(*call(copies, camera, features, RenderConfig(), None))[3]
        chosen = value if output == "features" else getattr(outputs, output)
        objective((chosen,)).backward()
        results.append(copies.means.grad)
    assert results[1] is not None and results[1].abs().max() > 0
    assert_agrees(results[0], results[1], 1e-9, "means")


@needs_extension
def test_opcheck() -> None:
    """Schema, autograd registration, fake tensors and tracing."""
    copies, features, probe = leaves_of(make_splats(30), 4)
    args = call(copies, make_camera(20, 20), features, RenderConfig(), probe)
    torch.library.opcheck(torch.ops.splatseg.rasterize.default, args)


PROGRAM = """
import sys, torch
sys.path.insert(0, "tests")
import test_rasterize as t
import splatseg._C
splats = t.make_splats(300, dtype=torch.float32)
out, grads = t.gradients(torch.ops.splatseg.rasterize, splats, t.make_camera(64, 48), 16, t.RenderConfig())
torch.save((splatseg._C.isa(), out[:4], grads), sys.argv[1])
"""


@needs_extension
def test_instruction_sets_agree(tmp_path: Path) -> None:
    """The baseline build against the best one: rounding differs by fused multiply-adds only."""
    results = []
    root = Path(__file__).parent.parent
    for isa in ("baseline", "best"):
        environment = {**os.environ, "SPLATSEG_ISA": isa, "PYTHONPATH": str(root)}
        file = tmp_path / f"{isa}.pt"
        subprocess.run([sys.executable, "-c", PROGRAM, str(file)], check=True, cwd=root, env=environment)
        results.append(torch.load(file))
    assert results[0][0] == "baseline"
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert_agrees(a, b, 2e-5, "output")
    for name, grad in results[0][2].items():
        assert_agrees(grad, results[1][2][name], 2e-4, name)


@needs_extension
@pytest.mark.parametrize("index", [0, 1, 2])
def test_garden(data_dir: Path, index: int) -> None:
    """138,766 real points: every 300th of them against the reference, all of them through the laws."""
    file = data_dir / "garden" / "test_garden.npz"
    if not file.is_file():
        pytest.skip(f"not at hand: {file}")
    data = np.load(file)
    means = torch.from_numpy(data["means3d"]).double()
    n = len(means)
    sh = (torch.from_numpy(data["colors"]).double()[:, None] / 255 - 0.5) / 0.28209479177387814
    quats = torch.randn(n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scales = torch.tensor([0.01, 0.02, 0.04], dtype=torch.float64).repeat(n, 1)
    splats = Splats(means, quats, scales, torch.full((n,), 0.7).double(), sh)
    width, height = int(data["width"]), int(data["height"])
    K, pose = torch.from_numpy(data["Ks"][index]).double(), torch.from_numpy(data["viewmats"][index]).double()
    camera = Camera(K, pose, width, height).resized(width // 8, height // 8)
    drawing = rasterize(splats, camera)
    assert float(drawing.alpha.min()) >= 0 and float(drawing.alpha.max()) < 1 - 1e-4 + 1e-12
    assert float(drawing.alpha.mean()) > 0.3
    few = Splats(*(getattr(splats, f.name)[::300] for f in fields(splats)))
    few = replace(few, scales=few.scales * 4)
    outputs, grads = gradients(torch.ops.splatseg.rasterize, few, camera.resized(48, 32), None, RenderConfig())
    expected, expected_grads = gradients(reference.rasterize, few, camera.resized(48, 32), None, RenderConfig())
    assert_agrees(outputs[0], expected[0], 1e-10, "color")
    for name, grad in grads.items():
        assert_agrees(grad, expected_grads[name], 1e-8, name)


def test_bad_shapes_are_named() -> None:
    splats, camera = make_splats(5), make_camera(8, 8)
    with pytest.raises(SplatsegError, match=r"quats: expected shape \(n=5, 4\)"):
        rasterize(replace(splats, quats=splats.quats[:4]), camera)
    with pytest.raises(SplatsegError, match="features: expected shape"):
        rasterize(splats, camera, torch.zeros(4, 2))
