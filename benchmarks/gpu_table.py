"""The table of all parts of benchmarks/gpu.sh, and the file that is kept of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import torch

from splatseg.core.atomic import write_text

TARGETS = {  # on one H100
    "steps": {"fit_10k_steps_s": 2.0, "step_us": 45.0},
    "fit": {"whole_seconds": 25.0, "features_seconds": 1.0},
}


def test_counts(report: Path) -> dict[str, int]:
    """How many tests of a JUnit file ended how."""
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in suites:
        for name in counts:
            counts[name] += int(suite.get(name, 0))
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    return {"passed": passed, **{name: counts[name] for name in ("failures", "errors", "skipped")}}


def merge(folder: Path, results: Path) -> None:
    """One table of all parts, with the targets beside them; writes ``results/<device>.json``."""
    parts = {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))}
    if (folder / "tests.xml").is_file():
        parts["tests"] = test_counts(folder / "tests.xml")
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(f"\n{name}, torch {torch.__version__}\n{'part':10} {'figure':40} {'value':>14} {'target':>10}")
    for part, figures in parts.items():
        for key, value in figures.items():
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            print(f"{part:10} {key:40} {text:>14} {TARGETS.get(part, {}).get(key, ''):>10}")
    document = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "parts": parts}
    file = results / (re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") + ".json")
    results.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(document, indent=1) + "\n")
    print(f"wrote {file}")
