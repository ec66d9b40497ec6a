"""The feature field: one vector per Gaussian, bound to the splat it was fitted on, and the one normalization rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from splatseg.core.atomic import atomic_write
from splatseg.core.errors import SplatsegError, check_dims, check_finite
from splatseg.core.gaussians import Gaussians
from splatseg.core.reading import regular
from splatseg.core.segments import Segments
from splatseg.core.value_digest import value_digest

NORM_EPS = 1e-6  # the loss, the renders and the queries all divide by |f| + NORM_EPS
FORMAT = "splatseg-features-1"
CHUNK = 1 << 16  # Gaussians looked at at a time


def unit_features(features: Tensor) -> Tensor:
    """``features`` (..., d) divided by their length + 1e-6; zero vectors stay zero. Dots of the result are cosines."""
    return features / (torch.linalg.vector_norm(features, dim=-1, keepdim=True) + NORM_EPS)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Of all ``tensors``, in whatever order a file holds them."""
    return value_digest(dict(sorted(tensors.items())))


def _alike(features: Tensor, pattern: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Number (m,) of each of ``rows`` (m,) among those of different features or patterns, and one row of each number.

    Sums of random 64-bit numbers stand for what a row holds: two different ones share one with probability 2^-64.
    """
    names = torch.randint(-(2**62), 2**62, (features.shape[1] + 1,), generator=torch.Generator().manual_seed(0))
    names = names.to(features.device)
    keys = [
        (features[part].view(torch.int32).long() * names[1:]).sum(1) + pattern[part] * names[0]
        for part in rows.split(CHUNK)
    ]
    distinct, number = torch.cat(keys).unique(return_inverse=True)
    example = torch.empty_like(distinct)
    example[number] = rows
    return number, example


@dataclass(frozen=True, eq=False)
class FeatureGroups:
    """Gaussians that lie in the same segments and have the same feature: every query scores them alike.

    Attributes:
        of: (n,) int32 group of each Gaussian.
        pattern: (g,) int64 pattern of segments (``Segments.patterns``) of each group.
        unit: (g, d) features of length 1.
    """

    of: Tensor
    pattern: Tensor
    unit: Tensor

    def summed(self, weights: Tensor) -> Tensor:
        """(g,) float64 sum of ``weights`` (n,) in each group; kept for the weights that were asked for last."""
        kept = self._summed
        if not kept or kept[0][0] is not weights:
            kept[:] = [(weights, torch.bincount(self.of, weights.double(), len(self.unit)))]
        return kept[0][1]

    @cached_property
    def _summed(self) -> list[tuple[Tensor, Tensor]]:
        return []


@dataclass(frozen=True, eq=False)
class FeatureField:
    """Features of the n Gaussians of one splat.

    Attributes:
        features: (n, d) float32, as fitted: what is blended along a ray. Not normalized.
        fingerprint: ``Gaussians.fingerprint()`` of the splat they were fitted on.
        segments: what the masks of several views agree on, as the fit found it; None where no views were compared.

    Raises:
        SplatsegError: wrong shape or type, a non-finite value, or segments of another number of Gaussians.
    """

    features: Tensor
    fingerprint: str
    segments: Segments | None = None

    def __post_init__(self) -> None:
        check_dims("features", self.features, ("n", "d"))
        if self.features.dtype != torch.float32:
            raise SplatsegError(f"features: expected float32, found {str(self.features.dtype).removeprefix('torch.')}")
        if self.features.shape[1] < 1:
            raise SplatsegError(f"features: expected at least one channel, found shape {tuple(self.features.shape)}")
        check_finite("features", self.features)
        if self.segments is not None and len(self.segments.weights) != len(self.features):
            raise SplatsegError(
                f"segments: expected sets of {len(self.features)} Gaussians, found {len(self.segments.weights)}"
            )

    def __len__(self) -> int:
        return self.features.shape[0]

    @property
    def dim(self) -> int:
        return self.features.shape[1]

    @cached_property
    def unit(self) -> Tensor:
        """(n, d) features of length 1 (0 where a feature is zero), computed once: the clicks' matrix."""
        return unit_features(self.features.detach())

    @cached_property
    def groups(self) -> FeatureGroups | None:
        """Where segments hold their Gaussians' features these are few, and a query need not look at the others; None
        where they are not fewer than half."""
        if self.segments is None or not len(self.segments):
            return None
        features, pattern = self.features.detach(), self.segments.pattern_on(self.features.device)
        known = torch.from_numpy(self.segments.weights > 0).to(pattern.device).nonzero()[:, 0]
        example = torch.full((len(self.segments.patterns[1]),), -1, dtype=torch.int64, device=pattern.device)
        example[pattern[known]] = known  # what no view shows may have left its segment's feature
        like = torch.cat(
            [
                (rows == features[example[own]]).all(1)
                for rows, own in zip(features.split(CHUNK), pattern.split(CHUNK), strict=True)
            ]
        )
        like &= example[pattern] >= 0
        held = torch.zeros(len(example), dtype=torch.bool, device=pattern.device)
        held[pattern[like]] = True
        alone = (~like).nonzero()[:, 0]
        number, example_alone = _alike(features, pattern, alone)
        first = torch.cat([example[held], example_alone])
        if 2 * len(first) > len(features):
            return None
        of = (held.cumsum(0) - 1)[pattern].to(torch.int32)
        of[alone] = (number + (len(first) - len(example_alone))).to(torch.int32)
        return FeatureGroups(of, pattern[first], unit_features(features[first]))

    @cached_property
    def confidence(self) -> Tensor:
        """(n,) share of the views of a Gaussian that agree on what it lies in, on the CPU; 0 where none was asked."""
        return torch.zeros(len(self)) if self.segments is None else torch.from_numpy(self.segments.agreed)

    def tensors(self) -> list[Tensor]:
        """All that the field holds, for digests."""
        segments = {} if self.segments is None else self.segments.to_tensors()
        return [self.features, *(segments[name] for name in sorted(segments))]

    def to(self, device: torch.device | str) -> FeatureField:
        return FeatureField(self.features.to(device), self.fingerprint, self.segments)

    def check_matches(self, gaussians: Gaussians, name: str = "features") -> None:
        """Raise :class:`SplatsegError` unless this field was fitted on ``gaussians``; ``name`` opens the message."""
        if len(self) != len(gaussians):
            raise SplatsegError(
                f"{name}: expected one feature for each of {len(gaussians)} Gaussians, found {len(self)}"
            )
        found = gaussians.fingerprint()
        if self.fingerprint != found:
            raise SplatsegError(
                f"{name}: expected features of the splat with fingerprint {found}, found {self.fingerprint}"
            )

    def save(self, path: Path | str) -> None:
        """Write safetensors: ``features``, those of ``segments.to_tensors()`` where there are any, and metadata
        ``fingerprint`` and ``sha256`` of all tensors (the format has no check sums); the file appears whole or not at
        all.

        Raises:
            SplatsegError: the folder cannot be written to, or the disk is full.
        """
        tensors = {"features": self.features.detach().cpu().contiguous()}
        if self.segments is not None:
            tensors |= self.segments.to_tensors()
        metadata = {"format": FORMAT, "fingerprint": self.fingerprint, "sha256": _digest(tensors)}
        content = save(tensors, metadata=metadata)
        with atomic_write(path) as partial:
            partial.write_bytes(content)

    @classmethod
    def load(cls, path: Path | str, gaussians: Gaussians | None = None) -> FeatureField:
        """Read what :meth:`save` wrote; given ``gaussians``, on their device and only if fitted on them. Files of older
        versions hold no segments and no digest.

        Raises:
            SplatsegError: the file is missing, corrupt, changed since, of another format, non-finite, or of another
                splat.
        """
        path = Path(path)
        if not path.is_file():
            raise SplatsegError(f"{path}: feature file not found")
        try:
            with safe_open(regular(path), framework="pt") as file:
                metadata = file.metadata() or {}
                keys = list(file.keys())
                features = file.get_tensor("features") if "features" in keys else None
                stored = {name: file.get_tensor(name) for name in keys if name.startswith("segments.")}
        except (SafetensorError, OSError, RuntimeError) as error:
            raise SplatsegError(f"{path}: expected a whole safetensors file, found a broken one ({error})") from None
        if metadata.get("format") != FORMAT or features is None or "fingerprint" not in metadata:
            raise SplatsegError(
                f"{path}: expected a '{FORMAT}' file with a tensor 'features' and a 'fingerprint', "
                f"found format {metadata.get('format')!r} with tensors {keys}"
            )
        found = _digest({**stored, "features": features})
        if (wanted := metadata.get("sha256", found)) != found:  # older versions wrote none
            raise SplatsegError(
                f"{path}: expected the tensors that were written (SHA-256 {wanted[:16]}), found others ({found[:16]}): "
                "the file is damaged or was changed"
            )
        try:
            segments = Segments.from_tensors(stored, len(features)) if stored else None
            field = cls(features, metadata["fingerprint"], segments)
        except SplatsegError as error:
            raise SplatsegError(f"{path}: {error}") from None
        if gaussians is None:
            return field
        field.check_matches(gaussians, str(path))
        return field.to(gaussians.device)
