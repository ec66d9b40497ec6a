"""Clicks and rectangles -> scores -> selections; proposed levels; undo."""

from splatseg.selection.clicks import Box, Click, PointClick, Query, make_query, select_box
from splatseg.selection.levels import Level, LevelConfig, propose_levels, surface_weights
from splatseg.selection.scores import Scores, check_threshold, pixel_scores, project_selection, scores
from splatseg.selection.sets import History, Selection

__all__ = [
    "Box",
    "Click",
    "History",
    "Level",
    "LevelConfig",
    "PointClick",
    "Query",
    "Scores",
    "Selection",
    "check_threshold",
    "make_query",
    "pixel_scores",
    "project_selection",
    "propose_levels",
    "scores",
    "select_box",
    "surface_weights",
]
