"""Where the stages after the geometry spend their time: the host's, by function."""

from __future__ import annotations

import argparse
import cProfile
import io
import pstats
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_steps import seconds
from splatseg.core.field import FeatureField
from splatseg.fit.features import fit_features
from splatseg.fit.settings import FitConfig
from splatseg.io.colmap import load_colmap
from splatseg.io.ply import load_gaussians
from splatseg.io.run_paths import RunPaths
from splatseg.masks.hierarchy import HierarchyFolder
from splatseg.segment.discretize import discretize
from splatseg.segment.splat import FeatureSplat

SHOWN = 45


def stages(args: argparse.Namespace) -> dict[str, Any]:
    """Features and labels of the run that the part ``fit`` left beside ``args.out``, twice each in this process: what
    the first pays for loading kernels and libraries, the second does not. ``stages_*.log`` beside ``args.out`` list the
    functions of the second."""
    out, device = Path(args.out), torch.device(args.device)
    run = RunPaths(out.parent / "fit" / "pools")
    scene, config = load_colmap(Path(args.scene)), FitConfig.preset(args.preset)
    gaussians = load_gaussians(run.geometry).to(device)
    hierarchies = HierarchyFolder(run.hierarchy)
    views = [view for view in scene.views if view.name in hierarchies]

    def features() -> FeatureField:
        return fit_features(gaussians, views, lambda view: hierarchies[view.name], config.features)

    field = features()
    result = {"features_again_seconds": profiled(features, device, out.with_name("stages_features.log"))}
    splat = FeatureSplat(gaussians, field).to(device)
    discretize(splat, config.clusters)
    again = profiled(lambda: discretize(splat, config.clusters), device, out.with_name("stages_labels.log"))
    return {**result, "labels_again_seconds": again}


def profiled(run: Callable[[], object], device: torch.device, path: Path) -> float:
    """Seconds of ``run`` unobserved; then once more with its functions listed in ``path``, by their own time and by
    what they call. Kernels count where the host waits for them."""
    alone = seconds(run, device)
    profile, text = cProfile.Profile(), io.StringIO()
    profile.runcall(run)
    table = pstats.Stats(profile, stream=text)
    table.sort_stats("tottime").print_stats(SHOWN)
    table.sort_stats("cumulative").print_stats(SHOWN)
    path.write_text(text.getvalue())
    return alone
