"""Measurements of splatseg, a command per file: ``PYTHONPATH=. python benchmarks/NAME.py`` in the project's root."""
