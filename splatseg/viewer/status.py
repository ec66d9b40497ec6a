"""The lines that tell how things are, in words for people."""

from __future__ import annotations

import html
import re
from typing import Literal

from splatseg.session import Session, level_names
from splatseg.session.legend import Legend
from splatseg.viewer.actions import Actions

Kind = Literal["note", "done", "failed"]
# On white and on the dark theme's gray; each of a contrast of 4.5 at least.
GOOD, BAD = "light-dark(#15803d,#4ade80)", "light-dark(#c2410c,#fb923c)"
MARKS: dict[Kind, tuple[str, str]] = {"note": ("", "inherit"), "done": ("✓ ", GOOD), "failed": ("✗ ", BAD)}
HEIGHT = "7.4em"  # five lines; more are scrolled to
HINT = "Click selects · Shift-click adds · Alt- or Ctrl-click takes out"
NAME_LETTERS = 28  # of an object's name where it has one line to itself

_CONTRACT = re.compile(r"(?P<what>[^:]+): expected (?P<wanted>.+?), found (?P<found>[^;]+)(; (?P<hint>.+))?", re.S)


def plain(message: str) -> str:
    """A contract's line, "what: expected this, found that; do so", as one says it: "What needs this, but there is
    that. Do so." Lines of another form stay as they are."""
    parts = _CONTRACT.fullmatch(message)
    if parts is None:
        return message
    found = parts["found"].strip()
    but = "but there is none" if found in ("none", "nothing", "0") else f"but there is {found}"
    if found.startswith("it ") or found.startswith("them "):
        but = f"but found {found}"
    said = f"{_capital(parts['what'])} needs {parts['wanted']}, {but}"
    return said if parts["hint"] is None else f"{said}: {parts['hint']}"


def short(name: str, letters: int = NAME_LETTERS) -> str:
    """``name``, cut to at most ``letters`` characters."""
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def facts(window: Actions) -> tuple[str, ...]:
    """Lines of markup: what is selected, what is drawn, and what the person may want to know."""
    session = window.session
    count = len(session.selection)
    first = f"<b>{count:,}</b> selected" if count else "Nothing selected"
    lines = [f"{first} · {window.template.statement}"]
    if count:
        lines += _level(session)
    elif not session.can_undo:
        lines.append(HINT)
    alone = session.workspace.shared.content.objects.get(session.isolated or 0)
    if alone is not None:
        lines.append(f"'{html.escape(short(alone.name))}' is shown alone (Objects → Show all)")
    if session.workspace.autosave_error:
        lines.append(f"<span style='color:{BAD}'>not saved: {html.escape(session.workspace.autosave_error)}</span>")
    return tuple(lines)


def _level(session: Session) -> list[str]:
    """What the click's level is, where there was a click and the threshold was not set by hand."""
    active = session.active
    if active is None or active.level is None:
        return []
    count = len(active.levels)
    share = active.levels[active.level].share
    return [
        f"last click: {level_names(count)[active.level]}, level {active.level + 1} of {count}, {share:.2%} of "
        "the scene's surface"
    ]


def status_html(lines: tuple[str, ...], running: str, message: tuple[str, Kind]) -> str:
    """The status: always of the same height."""
    news = [html.escape(running)] if running else []
    text, kind = message
    if text:
        mark, color = MARKS[kind]
        news.append(f"<span style='color:{color}'>{mark}{html.escape(text)}</span>")
    shown = (*lines[:1], *news, *lines[1:])
    place = f"height:{HEIGHT};overflow-y:auto;overflow-wrap:anywhere"
    style = f"font-size:0.85em;padding:0.3em 0.9em;line-height:1.45;{place}"
    return f"<div style='{style}'>{'<br>'.join(shown)}</div>"


def legend_html(legend: Legend | None) -> str:
    """The key of the colors that are drawn."""
    if legend is None:
        return ""
    parts = [f"<div>{html.escape(legend.title)}</div>"]
    if legend.ramp:
        stops = ",".join(f"rgb{color}" for color in legend.ramp)
        parts.append(f"<div style='height:0.9em;margin:0.3em 0;background:linear-gradient(to right,{stops})'></div>")
        ticks = "".join(f"<span>{html.escape(text)}</span>" for _, text in legend.ticks)
        parts.append(f"<div style='display:flex;justify-content:space-between'>{ticks}</div>")
    parts += [f"<div style='{ONE_LINE}'>{swatch(color)}{html.escape(name)}</div>" for color, name in legend.names]
    return f"<div style='font-size:0.8em;padding:0 0.9em 0.6em'>{''.join(parts)}</div>"


ONE_LINE = "white-space:nowrap;overflow:hidden;text-overflow:ellipsis"


def swatch(color: tuple[int, int, int]) -> str:
    """A small square of ``color``."""
    place = "display:inline-block;width:0.8em;height:0.8em;margin-right:0.5em;flex:none"
    return f"<span style='{place};background:rgb{color}'></span>"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
