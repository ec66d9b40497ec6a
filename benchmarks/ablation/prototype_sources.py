"""The project's prototypes, ../shared/prototypes, compiled where they lie and wrapped for prototypes.py.

Nothing of them is copied: the sources are read from that folder on every run. They are AVX-512 intrinsics throughout;
on a processor without those, wide_vectors.h stands in for them with pairs of AVX2 vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.cpp_extension import is_ninja_available, load

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT.parent / "shared/prototypes"
BUILD = ROOT / "build/prototypes"
NAMES = ("rasterize", "train_parts", "loss", "patches")
NEEDED = {"avx512f", "avx512bw", "avx512_vbmi", "avx512_vpopcntdq"}  # by the sources, as /proc/cpuinfo names them
WARNINGS = ("-Wno-psabi", "-Wno-ignored-attributes", "-Wno-unused-variable", "-Wno-unknown-pragmas")


@dataclass(frozen=True)
class Prototypes:
    """The compiled modules; ``native`` tells whether they run their own instructions or pairs of AVX2 vectors."""

    rasterize: ModuleType
    train_parts: ModuleType
    loss: ModuleType
    patches: ModuleType
    native: bool

    @property
    def vectors(self) -> str:
        return "AVX-512" if self.native else "AVX-512 intrinsics as pairs of AVX2 vectors (wide_vectors.h)"


def processor_flags() -> set[str]:
    """What Linux says of the first processor; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    flags = [line for line in info.read_text().splitlines() if line.startswith("flags")] if info.is_file() else []
    return set(flags[0].split()) if flags else set()


def compile_prototypes(folder: Path = FOLDER) -> Prototypes:
    """Compile what has changed since the last run (minutes the first time).

    A build that was killed leaves ``build/prototypes/*/lock``, for which PyTorch waits: delete it.

    Raises:
        SplatsegError: a source is not in ``folder``, there is no ninja, or the processor has no AVX2.
    """
    sources = {name: folder / f"{name}_avx512.cpp" for name in NAMES}
    for path in sources.values():
        if not path.is_file():
            raise SplatsegError(f"{path}: expected the prototype's source, found no such file")
    found = processor_flags()
    if not found >= {"avx2", "fma", "f16c"}:
        raise SplatsegError("processor: expected x86 with AVX2, FMA and F16C under Linux, found none")
    if not is_ninja_available():
        raise SplatsegError("ninja: expected it in PATH to compile the prototypes, found none")
    native = found >= NEEDED
    stand_in = [] if native else ["-include", str(Path(__file__).resolve().with_name("wide_vectors.h"))]
    flags = ["-O3", "-march=native", "-fopenmp", *stand_in, *WARNINGS]  # the first three are those of their README
    modules = {}
    for name, source in sources.items():
        folder_of_build = BUILD / name
        folder_of_build.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"extra_cflags": flags, "extra_ldflags": ["-fopenmp"]}
        modules[name] = load(f"prototype_{name}", [str(source)], build_directory=str(folder_of_build), **options)
    return Prototypes(**modules, native=native)


@dataclass
class PrototypeScene:
    """Gaussians as the prototype takes them, and its passes over one view. All float32 and contiguous.

    Attributes:
        means, quats, scales, opacities: activated, as ``Splats`` holds them.
        sh: (n, 3, 16) coefficients, channel first.
    """

    modules: Prototypes
    camera: Camera
    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor

    def __post_init__(self) -> None:
        n, c = len(self.means), self.camera
        self.pose = c.cam_from_world.contiguous()
        self.position = -self.pose[:3, :3].T @ self.pose[:3, 3]
        self.focal = tuple(float(c.K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
        self.view = self.modules.rasterize.View(c.width, c.height, *self.focal, self.pose)
        self.colors = torch.zeros(n, 4)
        self.background = torch.zeros(3)
        self.grads = [torch.empty_like(t) for t in (self.means, self.quats, self.scales)]

    def project(self) -> None:
        self.view.project(self.means, self.quats, self.scales, self.opacities)

    def bin(self) -> None:
        self.view.bin()

    def hand_over(self) -> None:
        """Conics and visibility for the other source; a port would share them, so this is nowhere in the times."""
        arrays = self.view.arrays()
        self.conics, self.visible = arrays[:, 2:5].contiguous(), arrays[:, 6].contiguous()

    def shade(self) -> None:
        self.modules.train_parts.sh_fwd(self.means, self.position, self.sh, self.visible, self.colors)

    def draw(self, features: Tensor | None = None) -> None:
        """Sets ``image`` (h, w, 3), ``feature_image`` (h, w, 16) and the transmittance."""
        self.features = self.means if features is None else features  # mode 0 reads no features
        self.mode = int(features is not None)
        drawn = self.view.fwd(self.colors, self.features, self.background, self.mode)
        self.image, self.feature_image, self.transmittance = drawn

    def draw_backward(self, grad: Tensor, feature_grad: Tensor | None = None) -> None:
        """Sets ``grads2d`` (n, 16): 2D mean, conic, opacity (column 5), color; and ``feature_grads`` (n, 16)."""
        drawn = (self.image, self.feature_image, self.transmittance)
        grads = (grad, grad if feature_grad is None else feature_grad)
        forward = (self.colors, self.features, self.background)
        self.grads2d, self.feature_grads = self.view.bwd(*forward, *drawn, *grads, self.mode)

    def project_backward(self) -> None:
        """Sets ``grads`` of means (without the way through the SH's view direction), quats and scales."""
        size = (self.camera.width, self.camera.height)
        arrays = (self.grads2d, self.conics, self.visible, *self.grads)
        inputs = (self.means, self.quats, self.scales, self.pose)
        self.modules.train_parts.proj_bwd(*inputs, *self.focal, *size, *arrays)

    def sh_step(self, moments: tuple[Tensor, Tensor], rate: float) -> None:
        """The SH backward, which the prototype has only fused with Adam's step on ``sh``."""
        state = (self.sh, *moments, self.grads2d, self.colors, self.visible, rate)
        self.modules.train_parts.sh_bwd_adam(self.means, self.position, *state)


Part = tuple[str, Callable[[], object]]
"""Name and call; a part without a name is run and not timed."""
