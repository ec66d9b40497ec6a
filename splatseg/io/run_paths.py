"""Where everything is in a run folder."""

from __future__ import annotations

from pathlib import Path

from splatseg.core.errors import SplatsegError
from splatseg.core.photos import RUN_IDENTITY


class RunPaths:
    """The files and folders of the run in ``folder``, there or not."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def identity(self) -> Path:
        """What the run is of (:meth:`scene_settings`); its presence makes a folder a run."""
        return self.folder / RUN_IDENTITY

    @property
    def capture(self) -> Path:
        """Digests of the photos, by view name: the capture is known by them, wherever it lies."""
        return self.folder / "capture.json"

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def geometry(self) -> Path:
        return self.folder / "geometry.ply"

    @property
    def blocks(self) -> Path:
        """Of a geometry that was fitted in blocks: the splat of each."""
        return self.folder / "blocks"

    @property
    def features(self) -> Path:
        return self.folder / "features.safetensors"

    @property
    def masks(self) -> Path:
        return self.folder / "masks"

    @property
    def hierarchy(self) -> Path:
        return self.folder / "hierarchy"

    @property
    def labels(self) -> Path:
        return self.folder / "labels.ply"

    @property
    def labels_json(self) -> Path:
        return self.folder / "labels.json"

    @property
    def labels_npz(self) -> Path:
        """The labels where ``labels.ply`` was written without them (``--sidecar``)."""
        return self.folder / "labels.npz"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def log_file(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def cache(self) -> Path:
        """Undistorted and resized images, traced pools: everything here can be made again."""
        return self.folder / "cache"

    @property
    def sfm(self) -> Path:
        """COLMAP workspace of ``--sfm``."""
        return self.folder / "sfm"

    @property
    def views(self) -> Path:
        """The capture of a run of a splat alone: its planned views."""
        return self.folder / "views"

    @property
    def contact_sheet(self) -> Path:
        return self.folder / "contact_sheet.png"

    @property
    def stages(self) -> Path:
        """A stamp per finished stage."""
        return self.folder / "stages"

    @property
    def sessions(self) -> Path:
        """Sessions of the viewer, by name."""
        return self.folder / "sessions"

    @property
    def lock_file(self) -> Path:
        return self.folder / "lock"

    @property
    def exports(self) -> Path:
        """Selections and objects written by scripts and the viewer."""
        return self.folder / "exports"

    @property
    def kept(self) -> tuple[Path, ...]:
        """What is read again: all of the above but the exports."""
        return (
            *(self.identity, self.capture, self.config, self.geometry, self.blocks, self.features, self.masks),
            *(self.hierarchy, self.labels, self.labels_json, self.labels_npz, self.metrics, self.log_file),
            *(self.checkpoints, self.cache, self.sfm, self.views, self.contact_sheet, self.stages, self.sessions),
            self.lock_file,
        )

    def check_output(self, *outputs: Path) -> None:
        """Raise :class:`SplatsegError` where a file or folder to be written is what the run keeps, lies in it, or is
        the run folder itself."""
        for path in outputs:
            place, folder = path.resolve(), self.folder.resolve()
            kept = [kept.resolve() for kept in self.kept]
            if place == folder or any(place == one or one in place.parents for one in kept):
                found = "the run itself" if place == folder else "what the run keeps there"
                raise SplatsegError(
                    f"{path}: expected a place of its own, such as one in {self.exports}, found {found}"
                )
