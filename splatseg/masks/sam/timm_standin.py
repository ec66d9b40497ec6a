"""The four names of timm that MobileSAM's image encoder uses, for machines without it.

timm brings torchvision along, which must match torch's build to the letter; MobileSAM takes no model from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor

from splatseg.masks.sam.standin import real_or_standin

Builder = TypeVar("Builder", bound=Callable[..., Any])


class DropPath(torch.nn.Module):
    """Stochastic depth (Huang et al., ECCV 2016): while training, each sample of (b, ...) is zeroed with probability
    ``drop_prob`` and divided by the chance of staying otherwise. In evaluation nothing happens."""

    def __init__(self, drop_prob: float | None = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.drop_prob or not self.training:
            return x
        stays = 1 - self.drop_prob
        kept = x.new_empty((len(x), *[1] * (x.ndim - 1))).bernoulli_(stays)
        return x * (kept / stays)


def to_2tuple(x: Any) -> tuple[Any, ...]:
    """A pair of ``x``; what is iterable already (but no string) is returned as a tuple."""
    return tuple(x) if isinstance(x, Iterable) and not isinstance(x, str) else (x, x)


def register_model(builder: Builder) -> Builder:
    """timm keeps a list of model builders by name; here there is none."""
    return builder


def timm_or_standin() -> AbstractContextManager[bool]:
    """Within the block ``import timm.models...`` works: the real one where it imports, else the stand-in; see
    :func:`~splatseg.masks.sam.standin.real_or_standin`."""
    layers: dict[str, object] = {
        "DropPath": DropPath,
        "to_2tuple": to_2tuple,
        "trunc_normal_": torch.nn.init.trunc_normal_,
    }
    contents: dict[str, dict[str, object]] = {
        "timm": {},
        "timm.models": {},
        "timm.models.layers": layers,
        "timm.models.registry": {"register_model": register_model},
    }
    return real_or_standin(["timm.models.layers", "timm.models.registry"], contents, also_dropped=["torchvision"])
