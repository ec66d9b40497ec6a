"""tyro's framed complaints about a command line, as one line: option, what was expected, what was found.

Works on the text that tyro prints (0.9 to 1.0), not on its private classes; a complaint that no rule here knows comes
out as tyro words it, on one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_HELP = re.compile(r"(For full helptext|Argument helptext)")
_TYPES = {"INT": "an integer", "FLOAT": "a number", "PATH": "a path", "STR": "a text"}


def one_line(text: str) -> str:
    """The complaint in ``text``, everything that tyro wrote to stderr."""
    lines = _content(text)
    message = " ".join(" ".join(lines).split())
    for pattern, worded in _RULES:
        if found := re.fullmatch(pattern, message):
            return worded(found)
    sections = _sections(lines)
    if sections:
        return "; ".join(sections)
    return message or "command line: expected options that --help lists, found others"


def _content(text: str) -> list[str]:
    """The lines below the title, indentation kept, up to the help texts."""
    lines = []
    for line in _unframed(_ANSI.sub("", text).splitlines()):
        if _HELP.match(line):
            break
        if line.strip("─- "):
            lines.append(line)
    return lines


def _unframed(lines: list[str]) -> list[str]:
    """What is inside a frame, or, where tyro takes stdout not to be UTF-8, indented below an underlined title."""
    if any(line.startswith("╭") for line in lines):
        return [line[2:].rstrip("│ ") for line in lines if line.startswith("│")]
    underlines = [i for i, line in enumerate(lines) if line.strip() and not line.strip("- ")]
    return [line[2:].rstrip() for line in lines[underlines[0] + 1 if underlines else 0 :]]


def _sections(lines: Sequence[str]) -> list[str]:
    """Missing and unknown options, which tyro lists one below the other: names are indented by 4, help by 8."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if indent == 0:
            section = line.partition(":")[0].partition(" from ")[0]
            rest = line.partition(":")[2].strip()
            found[section] = [rest] if rest else []
        elif indent == 4:
            found[section].append(line.strip())
    worded = []
    if found.get("Missing"):
        worded.append(f"{', '.join(found['Missing'])}: expected, found none")
    if found.get("Unrecognized options"):
        tokens = " ".join(found["Unrecognized options"]).replace(", ", " ")
        close = " or ".join(name.split()[0] for name in found.get("Perhaps you meant", [])[:3])
        worded.append(f"{tokens}: expected options that --help lists, found unknown" + (f"; {close}?" if close else ""))
    return worded


def _setting(found: re.Match[str]) -> str:
    """What a config of ours refuses: ``config.features`` and ``features.dim: expected ..`` name one option."""
    group, names, rest = found.groups()
    parents = [] if group[:1].isupper() else group.split(".")  # upper case: the class of all arguments
    options = []
    for name in names.split(", "):
        fields = name.split(".")
        above = parents[:-1] if parents[-1:] == fields[:1] and len(fields) > 1 else parents
        options.append(f"--{'.'.join([*above, *fields]).replace('_', '-')}")
    return f"{', '.join(options)}: {rest}"


def _wrong_type(found: re.Match[str]) -> str:
    """tyro names the alternatives of a type in capitals, ``{None}`` among them where an option may be left out."""
    option, types, values = found.groups()
    kinds = [_kinds(name) for name in types.split("|") if name != "{None}"]
    return f"{option}: expected {' or '.join(kinds)}, found {_spoken(values)}"


def _kinds(types: str) -> str:
    """``INT`` as "an integer", ``INT INT`` as "two integers"."""
    names = types.strip("{}").split()
    if len(names) == 2 and names[0] == names[1] and names[0] in ("INT", "FLOAT"):
        return "two integers" if names[0] == "INT" else "two numbers"
    return " ".join(_TYPES.get(name, name) for name in names)


def _spoken(values: str) -> str:
    """``'a', 'b'`` as ``'a b'``."""
    words = re.findall("'([^']*)'", values)
    return f"'{' '.join(words)}'" if words else values


_RULES: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (
        r"Error parsing (\S+): invalid literal for int\(\) with base 10: ('.*')",
        lambda m: f"{m[1]}: expected an integer, found {m[2]}",
    ),
    (
        r"Error parsing (\S+): could not convert string to float: ('.*')",
        lambda m: f"{m[1]}: expected a number, found {m[2]}",
    ),
    (r"Error parsing (\S+): no type matching (.+) could be instantiated from \[(.*?)\]\..*", _wrong_type),
    (
        r"Error parsing (\S+): Could not parse arguments \[(.*?)\] into tuple type tuple\[(.*)\]",
        lambda m: f"{m[1]}: expected {_kinds(m[3].replace(', ', ' ').upper())}, found {_spoken(m[2])}",
    ),
    (r"Error parsing ([\w.]+): ([a-z_][\w.]*(?:, [a-z_][\w.]*)*): (expected .*)", _setting),
    (
        r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*?),?\)\.",
        lambda m: f"{m[2]}: expected one of {m[3].replace(chr(39), '')}, found '{m[1]}'",
    ),
    (
        r"Missing value for argument '(\S+)'\. Expected (\d+) values\.",
        lambda m: f"{m[1]}: expected {m[2]} value{'' if m[2] == '1' else 's'}, found fewer",
    ),
    (r"Error parsing (--\S+): (.*)", lambda m: f"{m[1]}: {m[2]}"),
)
