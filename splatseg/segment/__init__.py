"""From features to things: clicks -> scores -> a selection, proposed levels, and the label tree of a whole scene."""

from splatseg.segment.clicks import Box, Click, PointClick, Query, make_query, select_box
from splatseg.segment.discretize import ClusterConfig, discretize
from splatseg.segment.levels import Level, LevelConfig, propose_levels, surface_weights
from splatseg.segment.scores import Scores, check_threshold, pixel_scores, project_selection, project_selections, scores
from splatseg.segment.splat import Found, Proposal, SegmentableSplat

__all__ = [
    "Box",
    "Click",
    "ClusterConfig",
    "Found",
    "Level",
    "LevelConfig",
    "PointClick",
    "Proposal",
    "Query",
    "Scores",
    "SegmentableSplat",
    "check_threshold",
    "discretize",
    "make_query",
    "pixel_scores",
    "project_selection",
    "project_selections",
    "propose_levels",
    "scores",
    "select_box",
    "surface_weights",
]
