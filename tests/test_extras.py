"""The optional dependencies: what a message or a page tells people to install is there to be installed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from splatseg.cli import doctor

ROOT = Path(__file__).parent.parent


def extras() -> dict[str, list[str]]:
    """``extras_require`` of setup.py, read without running it."""
    calls = [node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.Call)]
    keywords = {keyword.arg: keyword.value for call in calls for keyword in call.keywords}
    return ast.literal_eval(keywords["extras_require"])


def named_extras() -> dict[str, str]:
    """Every extra that code or a page names, and where: ``splatseg[a,b]``, and what goes to ``require_extra``."""
    found = {extra: "splatseg/cli/doctor.py" for extra in doctor.OPTIONAL.values()}
    sources = [
        *ROOT.glob("splatseg/**/*.py"),
        *ROOT.glob("scripts/*.py"),
        *ROOT.glob("docs/**/*.md"),
        ROOT / "README.md",
    ]
    for path in sources:
        text = path.read_text(encoding="utf-8")
        names = [
            name for group in re.findall(r"(?:splatseg|-e \.|'\.)\[([a-z0-9_,-]+)\]", text) for name in group.split(",")
        ]
        # the second argument of the two functions that build such a message from parts
        names += re.findall(r"""(?:require_extra|import_with_standins)\(\s*["'][\w.]+["'],\s*["']([\w-]+)["']""", text)
        found |= {name: path.relative_to(ROOT).as_posix() for name in names}
    return found


def test_every_named_extra_exists() -> None:
    named = named_extras()
    assert {"sam", "sam2", "mobilesam", "viewer"} <= set(named)  # the search itself finds what is known to be there
    missing = {name: where for name, where in named.items() if name not in extras()}
    assert not missing, f"named but not in setup.py: {missing}"


def test_every_requirement_has_a_lower_bound() -> None:
    """Or names one commit: without either, pip may take a version from before the functions that are used."""
    for extra, requirements in extras().items():
        for requirement in requirements:
            assert re.search(r">=\d|@ git\+https://\S+@[0-9a-f]{40}$", requirement), f"{extra}: {requirement}"
