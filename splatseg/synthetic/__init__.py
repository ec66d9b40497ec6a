"""Small ray-cast scenes with an exact part-object-group tree, for the demo, tests and benchmarks."""

from splatseg.synthetic.capture import SceneConfig, look_at, make_cameras, write_scene
from splatseg.synthetic.mask_simulation import MaskSimulation, simulate_masks
from splatseg.synthetic.raycast import Frame, cast_view
from splatseg.synthetic.world import Solid, World, build_world

__all__ = [
    "Frame",
    "MaskSimulation",
    "SceneConfig",
    "Solid",
    "World",
    "build_world",
    "cast_view",
    "look_at",
    "make_cameras",
    "simulate_masks",
    "write_scene",
]
