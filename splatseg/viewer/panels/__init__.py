"""The tabs of a window."""
