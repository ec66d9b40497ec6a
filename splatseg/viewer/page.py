"""What viser's page leaves unsaid: words for a lost server, names for its buttons of icons. Styles, no scripts.

The classes are those of viser 1.1's page (Mantine, Tabler); ``tests/browser`` looks whether they still are.
"""

from __future__ import annotations

LOST = (
    "The server does not answer: it was stopped, or the network is down. What was selected and kept is not lost, and "
    "this page goes on by itself when the server is back."
)
PATIENCE_SECONDS = 2
ICONS = {
    ".mantine-ActionIcon-root:has(.tabler-icon-list-search)": "Commands",
    ".mantine-ActionIcon-root:has(.tabler-icon-adjustments)": "Configuration and diagnostics",
    ".mantine-ActionIcon-root:has(.tabler-icon-arrow-back)": "Back to the tools",
    ".mantine-Notification-closeButton": "Close the note",
}
_UNSEEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)"  # read aloud all the same


# A phone's panel: viser's covers two thirds of the width and more than half of the height, over the picture's middle.
SHEET = '.mantine-Paper-root[style*="max-height: 60%"]'
PHONE = (
    f"{SHEET}{{width:100%!important;max-height:40%!important}}{SHEET} [style*='width: 20em']{{width:100%!important}}"
)


def page_html() -> str:
    """An HTML widget of no height while the server answers."""
    names = "".join(f'{place}::after{{content:"{name}";{_UNSEEN}}}' for place, name in ICONS.items())
    late = "@keyframes splatseg-late{from,to{max-height:0;padding:0;overflow:hidden}}"  # a short break needs no words
    shown = f"display:block;animation:splatseg-late {PATIENCE_SECONDS}s"
    lost = f".splatseg-lost{{display:none}}body:has(.mantine-Loader-root) .splatseg-lost{{{shown}}}"
    style = "padding:0.6em 0.9em;font-size:0.85em;color:light-dark(#c2410c,#fb923c)"
    return (
        f"<style>{names}{late}{lost}{PHONE}</style><div class='splatseg-lost' role='alert' style='{style}'>{LOST}</div>"
    )
