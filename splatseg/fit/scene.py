"""The main job as one call."""

from __future__ import annotations

from pathlib import Path

from splatseg.core.progress import Reporter, terminal
from splatseg.fit.pipeline import Fit
from splatseg.fit.settings import FitConfig, FitInputs
from splatseg.segment.splat import SegmentableSplat


def fit_scene(
    scene: Path | str | None,
    out: Path | str,
    masks: str | Path | None = None,
    config: FitConfig | str = "default",
    device: str = "auto",
    quiet: bool = True,
    reporter: Reporter | None = None,
    splat: Path | str | None = None,
) -> SegmentableSplat:
    """Fit a splat with features to a capture, label it, and leave everything in the run folder ``out``: what
    ``splatseg fit SCENE --out OUT`` does. Stages that are done are not done again.

    Args:
        scene: COLMAP capture, or a folder with a ``transforms.json``; None: views of ``splat``, which are
            planned and rendered.
        out: run folder; made if it is not there.
        masks: "watershed", "sam" or a folder of masks; None: those that the run holds, else "watershed".
        config: settings, or the name of a preset: "fast", "default", "quality".
        device: "auto", "cpu" or "cuda".
        quiet: no progress on stderr.
        reporter: hears of progress in place of stderr, and may cancel the fit; it is taken up by the next call.
        splat: use this splat, of any format, instead of fitting one.

    Returns:
        The splat and its features, on the CPU.

    Raises:
        SplatsegError: bad input, or ``out`` is in use or of another capture.
    """
    chosen = FitConfig.preset(config) if isinstance(config, str) else config
    inputs = FitInputs(
        None if scene is None else Path(scene),
        Path(out),
        None if masks is None else str(masks),
        None if splat is None else Path(splat),
        device=device,
    )
    fit = Fit(inputs, chosen, reporter or terminal(quiet))
    fit.execute()
    return SegmentableSplat.load(fit.run.geometry, fit.run.features)
