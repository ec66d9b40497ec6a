"""The headless viewer: everything a person can do in the browser, as calls. ``Session(run).click(view, u, v)``."""

from splatseg.core.progress import Cancelled, Job
from splatseg.session.session import Session, open_run
from splatseg.session.shared import Change, Content, SceneObject, SharedState, file_stem
from splatseg.session.state import Mode, Pick, Step, level_names
from splatseg.session.workspace import Workspace

__all__ = [
    "Cancelled",
    "Change",
    "Content",
    "Job",
    "Mode",
    "Pick",
    "SceneObject",
    "Session",
    "SharedState",
    "Step",
    "Workspace",
    "file_stem",
    "level_names",
    "open_run",
]
