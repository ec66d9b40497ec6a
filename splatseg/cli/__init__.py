"""The commands: ``splatseg fit`` and its siblings; ``scripts/*.py`` call the same."""

from splatseg._processors import share_processors

share_processors()  # before torch is loaded: see there
