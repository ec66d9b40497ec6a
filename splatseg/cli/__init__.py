"""The commands: ``splatseg fit`` and its siblings; ``scripts/*.py`` call the same."""
