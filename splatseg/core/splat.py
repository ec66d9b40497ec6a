"""A splat and the features that were fitted on it, as one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.gaussians import Gaussians


@dataclass(frozen=True, eq=False)
class FeatureSplat:
    """A splat and the features that were fitted on it; that they belong together is looked at once, here.

    Raises:
        SplatsegError: the features belong to another splat.
    """

    gaussians: Gaussians
    field: FeatureField

    def __post_init__(self) -> None:
        self.field.check_matches(self.gaussians)

    def __len__(self) -> int:
        """Number of Gaussians."""
        return len(self.gaussians)

    @property
    def fingerprint(self) -> str:
        """That of the Gaussians, hashed when the two were put together."""
        return self.field.fingerprint

    @classmethod
    def _checked(cls, gaussians: Gaussians, field: FeatureField) -> Self:
        """Of what is known to belong together: nothing is hashed."""
        made = object.__new__(cls)
        object.__setattr__(made, "gaussians", gaussians)
        object.__setattr__(made, "field", field)
        return made

    def showing(self, gaussians: Gaussians) -> Self:
        """The same features on the same Gaussians, of which some are transparent in ``gaussians``.

        Raises:
            SplatsegError: another number of Gaussians.
        """
        if len(gaussians) != len(self):
            raise SplatsegError(f"gaussians: expected {len(self)}, found {len(gaussians)}")
        return self._checked(gaussians, self.field)

    def to(self, device: torch.device | str) -> Self:
        """Both on ``device``; what was checked is not checked again."""
        return self._checked(self.gaussians.to(device), self.field.to(device))
