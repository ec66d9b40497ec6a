"""The browser viewer: viser widgets over :class:`splatseg.Session`. ``pip install 'splatseg[viewer]'``."""

from splatseg.viewer.app import Viewer, ViewerConfig
from splatseg.viewer.server import ServerConfig

__all__ = ["ServerConfig", "Viewer", "ViewerConfig"]
