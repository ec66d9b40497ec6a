"""Buttons: their icons and tooltips, and that they are lit when they can act."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from splatseg.viewer.events import pressed

# Icon of Tabler's set, and the tooltip of those that are made without one. viser keeps 32 icons in memory; were there
# more, each button would open its archive of thousands anew.
LOOKS: dict[str, tuple[str, str]] = {
    "Cancel": ("player-stop", "Stop what is running"),
    "Close (Enter)": ("check", "Select what is inside of the lasso"),
    "Back (Backspace)": ("arrow-back-up", "Forget the corner that was clicked last"),
    "part": ("circle", "The smallest level of the last click"),
    "object": ("circles", "The second level of the last click"),
    "group": ("sitemap", "The largest level of the last click"),
    "Undo": ("arrow-back-up", "Take the last step of this window back (Ctrl-Z)"),
    "Redo": ("arrow-forward-up", "Do it again (Ctrl-Shift-Z)"),
    "Clear": ("x", "Select nothing (Escape)"),
    "Invert": ("contrast", "What is visible and not selected (Ctrl-I)"),
    "Keep as object": ("plus", ""),
    "Hide selection": ("eye-off", ""),
    "Union": ("layers-union", "Add the object to the selection"),
    "Intersect": ("layers-intersect", "Leave what both have in common"),
    "Subtract": ("layers-subtract", "Take the object out of the selection"),
    "Grow": ("arrows-maximize", "Add what touches it, or the tenth that is most similar"),
    "Shrink": ("arrows-minimize", "Take out what touches anything else, or the tenth that is least similar"),
    "Fill holes": ("bucket-droplet", "Add what touches nothing but the selection"),
    "Keep clicked piece": ("pointer", "Leave the connected piece that was clicked last"),
    "Keep largest piece": ("circles", "Leave the largest connected piece"),
    "Find floaters": ("sparkles", ""),
    "Remove floaters": ("trash", ""),
    "Pick from the picture": ("color-picker", ""),
    "Select and go there": ("focus-2", "What is chosen under Found"),
    "Show all": ("eye", "Nothing hidden, nothing alone"),
    "Rename": ("pencil", "Give the object the name above"),
    "Duplicate": ("copy", ""),
    "Divide the scene": ("sitemap", ""),
    "Merge": ("layers-union", ""),
    "Split": ("arrows-split", ""),
    "Selection (PLY)": ("download", "The selected Gaussians"),
    "Edited scene (PLY)": ("download", "What is shown, and the copies where they stand"),
    "Scene without it (PLY)": ("download", "All that is neither selected nor hidden"),
    "Masks in all photos (ZIP)": ("file-zip", "The selection as a mask of every photo"),
    "All labels (ZIP)": ("file-zip", "Labels of the whole scene with their tree"),
    "Objects as labels (ZIP)": ("file-zip", "The kept objects as labels"),
    "Image of this view (PNG)": ("photo", "Drawn by the server from all Gaussians"),
    "Save": ("device-floppy", "Objects, labels and the selection, under the name above"),
    "Reopen": ("folder-open", "The saved session chosen above"),
}


def load_icons() -> None:
    """Read all from viser's archive, once a process: half a second that a window need not wait for."""
    from viser._icons import svg_from_icon  # here: that the extra is missing is told by the server's module

    for icon, _ in LOOKS.values():
        svg_from_icon(icon)


def add_button(gui: Any, label: str, **options: Any) -> Any:
    """viser's handle of a button with its icon and tooltip."""
    icon, hint = LOOKS[label]
    return gui.add_button(label, icon=icon, hint=options.pop("hint", hint), **options)


def add_buttons(gui: Any, ways: Mapping[str, Callable[[], object]], **options: Any) -> dict[str, Any]:
    """A button for each of ``ways``, gray at first. Not a group: viser cannot gray one, nor a part of it."""
    buttons = {label: add_button(gui, label, color="gray", disabled=True, **options) for label in ways}
    for label, button in buttons.items():
        button.on_click(pressed(ways[label]))
    return buttons


def light(widget: Any, can_act: bool) -> None:
    """Let ``widget`` be used, or gray it; nothing is sent where it is so already."""
    if bool(widget.disabled) == can_act:
        widget.disabled = not can_act
