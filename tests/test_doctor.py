"""The doctor finds what is there and says how to mend what is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from splatseg.cli import doctor

ROOT = Path(__file__).parent.parent


def test_report_of_this_machine() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "scripts/doctor.py"], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout
    assert "splatseg._C" in done.stdout and "GiB memory" in done.stdout


def test_missing_package_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("hdbscan", "viser") else "1.0")
    findings = {finding.subject: finding for finding in doctor.versions()}
    assert findings["hdbscan"].mend == "pip install hdbscan" and findings["hdbscan"].required
    assert findings["viser"].mend == "pip install 'splatseg[viewer]'" and not findings["viser"].required


def test_extension_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "build_info", lambda: None)
    (finding,) = doctor.extension()
    assert "references run instead" in finding.state and "no-build-isolation" in finding.mend


def test_every_registered_op_is_listed_with_its_cpu_kernel() -> None:
    names = doctor.op_names()
    assert "adam_" in names
    assert all(doctor.has_kernel(name, "CPU") for name in ("adam_", "blend"))
