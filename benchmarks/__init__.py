"""Measurements of splatseg, a command a file: ``PYTHONPATH=. python benchmarks/NAME.py`` in the project's root."""
