"""The splat: stored (unconstrained) parameters, their activated forms, and a fingerprint of the whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims, check_finite

SH_C0 = 0.28209479177387814  # Y_0^0, the constant spherical harmonic


@dataclass(frozen=True, eq=False)
class Gaussians:
    """n Gaussians in stored form, as an INRIA PLY holds them.

    Attributes:
        means: (n, 3) float32, world units.
        quats: (n, 4) float32, wxyz, any non-zero length.
        log_scales: (n, 3) float32, natural log of the standard deviations in world units.
        opacity_logits: (n,) float32.
        sh: (n, k, 3) float32 spherical-harmonic coefficients, k = (degree + 1)^2, color = max(SH + 0.5, 0).
        offset: where the origin of ``means`` lies in the capture's frame, world units, float64: not zero where float32
            cannot hold positions there. ``means`` and cameras of one run share it.
        extra: (n,) each, of any number type: properties of a file that are not ours. They go with the Gaussians and
            into every PLY that is made of them; nothing computes with them, and the fingerprint leaves them out.
    """

    means: Tensor
    quats: Tensor
    log_scales: Tensor
    opacity_logits: Tensor
    sh: Tensor
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = check_dims("means", self.means, ("n", 3))
        check_dims("quats", self.quats, ("n", 4), sizes)
        check_dims("log_scales", self.log_scales, ("n", 3), sizes)
        check_dims("opacity_logits", self.opacity_logits, ("n",), sizes)
        check_dims("sh", self.sh, ("n", "k", 3), sizes)
        if self.sh.shape[1] not in (1, 4, 9, 16):
            raise SplatsegError(f"sh: expected 1, 4, 9 or 16 coefficients per channel, found {self.sh.shape[1]}")
        for name, values in self.extra.items():
            check_dims(name, values, ("n",), sizes)

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def device(self) -> torch.device:
        return self.means.device

    @property
    def scales(self) -> Tensor:
        """(n, 3) standard deviations, world units."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:
        """(n,) in (0, 1)."""
        return self.opacity_logits.sigmoid()

    @property
    def sh_degree(self) -> int:
        return {1: 0, 4: 1, 9: 2, 16: 3}[self.sh.shape[1]]

    @property
    def base_colors(self) -> Tensor:
        """(n, 3) view-independent color in [0, 1]."""
        return (self.sh[:, 0] * SH_C0 + 0.5).clamp(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Field name -> tensor, in declaration order."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("offset", "extra")}

    def to(self, device: torch.device | str) -> Gaussians:
        return self._each(lambda tensor: tensor.to(device))

    def detach(self) -> Gaussians:
        return self._each(Tensor.detach)

    def select(self, index: Tensor | slice) -> Gaussians:
        """The Gaussians at ``index``: (m,) integer ids, an (n,) boolean mask or a slice."""
        return self._each(lambda tensor: tensor[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Gaussians:
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in self.tensors().items()}
        return replace(self, **changed, extra={name: change(values) for name, values in self.extra.items()})

    def check_finite(self) -> None:
        """Raise :class:`SplatsegError` naming the field and entry of the first non-finite value."""
        for name, tensor in self.tensors().items():
            check_finite(name, tensor)

    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over all values in float32: equal splats, and only they, have equal fingerprints."""
        digest = hashlib.sha256()
        for name, tensor in self.tensors().items():
            values = tensor.detach().to("cpu", torch.float32).contiguous()
            digest.update(f"{name}{tuple(values.shape)}".encode())
            digest.update(values.numpy().data)
        return digest.hexdigest()[:16]
