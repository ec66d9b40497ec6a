"""A capture that is too large for one fit of its geometry: cut into blocks, fitted one by one, put together again."""

from splatseg.fit.blocks.borders import join_block, merged
from splatseg.fit.blocks.fit import fit_block, scene_shell
from splatseg.fit.blocks.plan import Block, plan_blocks

__all__ = ["Block", "fit_block", "join_block", "merged", "plan_blocks", "scene_shell"]
