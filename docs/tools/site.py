"""What mkdocs cannot do by itself: pages that are made from the program and from files beside ``docs/``.

``reference/cli.md`` is what every command says of itself and its ``--help-all``; ``development/architecture.md`` and
``changelog.md`` are the files of the checkout; links from pages to sources become their paths, as the site does not
hold them.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent.parent
WIDTH = "80"
OF_THE_CHECKOUT = {"development/architecture.md": "ARCHITECTURE.md", "development/changelog.md": "CHANGELOG.md"}
PATHS = """
## Environment variables

| variable | |
|---|---|
| `SPLATSEG_CACHE` | where downloaded weights are kept; `~/.cache/splatseg` if not set |
| `SPLATSEG_OFFLINE=1` | never download |
| `SPLATSEG_PASSWORD` | the viewer's password, with `--password` |
| `SPLATSEG_CUDA` | when the package is built: `1`, `0`, or as torch is |

## Exit codes

0: done. 2: bad input or a full disk, in one line on standard error. 130: Ctrl-C. 1: a bug, with a traceback; of
`doctor`: something needed is missing.
"""


def help_of(*words: str) -> str:
    """What ``splatseg WORDS`` prints."""
    from splatseg.cli.command import main

    printed, before = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), sys.argv  # UTF-8: with frames
    sys.argv = ["splatseg", *words]
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main()
        printed.flush()
    finally:
        sys.argv = before
    return "\n".join(plain(line) for line in printed.buffer.getvalue().decode().splitlines())


def plain(line: str) -> str:
    """``line`` without the markup of docstrings, its frame still straight."""
    shorter = re.sub(r":\w+:`([^`]*)`", r"\1", line).replace("``", "")
    if line.endswith("│"):
        shorter = shorter[:-1] + " " * (len(line) - len(shorter)) + "│"
    return shorter.rstrip()


def commands_page() -> str:
    """The reference of the command line."""
    from splatseg.cli.command import COMMANDS

    os.environ["COLUMNS"] = WIDTH
    parts = ["# Commands", f"```text\n{help_of('--help')}\n```"]
    for name in COMMANDS:
        about = import_module(f"splatseg.cli.{name}").__doc__ or ""
        usage, _, options = help_of(name, "--help-all").partition("\n")
        options = options[max(options.find("╭"), 0) :]
        parts += [f"## splatseg {name}", about.strip(), f"```text\n{usage}\n\n{options}\n```"]
    return "\n\n".join([*parts, PATHS])


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in ``docs/``."""
    sys.path.insert(0, str(ROOT))
    files.append(File.generated(config, "reference/cli.md", content=commands_page()))
    for page, source in OF_THE_CHECKOUT.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        here = posixpath.dirname(page)
        text = re.sub(r"\]\(docs/([^)#]+)", lambda found, here=here: f"]({posixpath.relpath(found[1], here)}", text)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to sources as paths: ``[text](../../benchmarks/x.py)`` becomes ``text (benchmarks/x.py)``."""

    def path(found: re.Match[str]) -> str:
        text, target = found[1].strip("`"), found[2]
        return f"`{target}`" if posixpath.basename(target) == text else f"{found[1]} (`{target}`)"

    return re.sub(r"\[([^\]]+)\]\((?:\.\./)+((?:benchmarks|tests|cuda_ext|splatseg|scripts)/[^)]*)\)", path, markdown)
