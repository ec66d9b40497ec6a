"""Protocols and metrics: hierarchical clicks, reference masks, 3D labels, the ceiling of a splat."""
