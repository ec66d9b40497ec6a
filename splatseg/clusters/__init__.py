"""Whole-scene discretisation at several levels: a label tree."""

from splatseg.clusters.discretise import ClusterConfig, discretise
from splatseg.clusters.tree import LabelNode, LabelTree, build_nodes, tree_from_leaves

__all__ = ["ClusterConfig", "LabelNode", "LabelTree", "build_nodes", "discretise", "tree_from_leaves"]
