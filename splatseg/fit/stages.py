"""Stages of a job: what a result is made from, a digest per input, and what has changed since it was made.

A stage names its inputs (``photos``, ``poses``, ``settings``, the results of the stages before it, ...); the stage is
done where a finished one had the same digest of all of them. The digests are kept with the result, so that a line can
say which input is another one now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import View
from splatseg.fit.views.config import ViewPlanConfig
from splatseg.io.digests import digest

VERSIONS = {
    "views": 2,
    "block": 1,
    "border": 1,
    "geometry": 3,
    "psnr": 1,
    "hierarchy": 1,
    "features": 3,
    "labels": 4,
    "sheet": 1,
}
"""Of each stage's code: to be raised with every change after which the same inputs give another result."""

RESULTS = frozenset({"geometry", "hierarchy", "features", "labels"})
"""Inputs that are results of other stages, which have said what changed."""

_MADE = {"views": "planned", "geometry": "fitted", "features": "fitted", "psnr": "measured"}


@dataclass(frozen=True)
class Stage:
    """A step of a job and the digest of each of its inputs."""

    name: str
    inputs: Mapping[str, str]

    @classmethod
    def of(cls, name: str, **inputs: Any) -> Stage:
        """Stage ``name`` made from ``inputs``, each a digest or anything JSON can hold, and from its code; of several
        of a kind each has its number behind an underscore."""
        digests = {key: value if isinstance(value, str) else digest(value) for key, value in inputs.items()}
        return cls(name, {**digests, "code": str(VERSIONS[name.partition("_")[0]])})

    @property
    def key(self) -> str:
        """16 hex digits over all inputs."""
        return digest({"stage": self.name, "inputs": dict(self.inputs)})

    def line(self, before: Mapping[str, str] | None) -> str | None:
        """What a person is told before the stage is done anew.

        Args:
            before: the inputs of the result that is there; None where an older version left one without them.

        Returns:
            "geometry: poses changed, fitted anew"; None where all that changed are results of stages before this one.
        """
        anew = f"{_MADE.get(self.name, 'made')} anew"
        if before is None:
            return f"{self.name}: made by an older version of splatseg, {anew}"
        changed = [name for name, value in self.inputs.items() if before.get(name) != value]
        changed = changed or [name for name in before if name not in self.inputs]
        if not changed:
            return f"{self.name}: its files are gone or changed, {anew}"
        if RESULTS.issuperset(changed):
            return None
        return f"{self.name}: {', '.join(changed)} changed, {anew}"


def views_stage(gaussians: Gaussians, config: ViewPlanConfig) -> Stage:
    """The stage that plans and renders views of a splat."""
    offset = list(gaussians.offset)
    return Stage.of("views", splat=gaussians.fingerprint(), offset=offset, settings=asdict(config))


def photos_digest(views: Sequence[View], masks: bool = False) -> str:
    """Of the views' names and photos, by contents; with ``masks`` also of what the geometry leaves out of them.

    Raises:
        SplatsegError: a photo is missing or unreadable.
    """
    sources = [[view.name, None if view.source is None else asdict(view.source)] for view in views]
    files = [path for view in views for path in (view.files if masks else (view.image_path,))]
    return digest(sources, files=files)


def poses_digest(views: Sequence[View]) -> str:
    return tensors_digest(view.camera.cam_from_world for view in views)


def intrinsics_digest(views: Sequence[View]) -> str:
    return digest([[tensors_digest([v.camera.K]), v.camera.width, v.camera.height] for v in views])


def cameras_digests(views: Sequence[View]) -> dict[str, str]:
    """The inputs ``poses`` and ``intrinsics``."""
    return {"poses": poses_digest(views), "intrinsics": intrinsics_digest(views)}


def folder_digest(folder: Path) -> str:
    """Of the contents of all files below ``folder``, in the order of their names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest([path.relative_to(folder).as_posix() for path in files], files=files)


def tensors_digest(tensors: Iterable[Tensor]) -> str:
    """16 hex digits over shapes, types and values."""
    result = hashlib.sha256()
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        result.update(f"{values.dtype}{tuple(values.shape)}".encode())
        result.update(values.numpy().tobytes())
    return result.hexdigest()[:16]
