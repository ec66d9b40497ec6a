"""The compiled extension: in step with the sources beside it, or refused with the command that builds it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from splatseg.core.errors import SplatsegError
from splatseg.ops import extension
from splatseg.ops.sources import sources_digest

ROOT = Path(__file__).parent.parent


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_digest_is_that_of_names_and_contents_of_sources(tmp_path: Path) -> None:
    files = {"a.cpp": "int a;", "cpu/b.h": "int b;", "cuda/c.cu": "int c;", "cuda/d.cuh": "int d;"}
    digest = sources_digest(write(tmp_path / "one", files))
    assert len(digest) == 16
    assert sources_digest(write(tmp_path / "twin", dict(reversed(files.items())))) == digest
    assert sources_digest(write(tmp_path / "notes", {**files, "README.md": "", "check.py": ""})) == digest
    for name in files:
        changed = {**files, name: files[name] + " "}
        assert sources_digest(write(tmp_path / f"changed {Path(name).stem}", changed)) != digest
    moved = {("cuda/b.h" if name == "cpu/b.h" else name): text for name, text in files.items()}
    assert sources_digest(write(tmp_path / "moved", moved)) != digest
    assert sources_digest(tmp_path / "nowhere") == ""  # an installed wheel


def test_the_build_knows_its_sources() -> None:
    if not extension.compiled():
        pytest.skip("splatseg._C is not built")
    import splatseg._C as module

    extension.check_sources(module.sources(), ROOT / "cuda_ext")
    assert module.sources() == sources_digest(ROOT / "cuda_ext")


@pytest.mark.parametrize(("built", "found"), [("0123456789abcdef", "0123456789abcdef"), ("", "of an older version")])
def test_stale_extension(tmp_path: Path, built: str, found: str) -> None:
    """Built from other sources; built before the digest was baked in. Beside no sources there is nothing to refuse."""
    folder = write(tmp_path, {"new.cpp": "int x;"})
    with pytest.raises(SplatsegError, match=rf"{sources_digest(folder)}.*sources {found}: .* python setup.py") as error:
        extension.check_sources(built, folder)
    assert "\n" not in str(error.value)
    extension.check_sources(built, tmp_path / "nowhere")


@pytest.mark.parametrize("command", [["-c", "import splatseg.ops"], ["scripts/fit.py", "scene"]])
def test_stale_extension_at_import(tmp_path: Path, command: list[str]) -> None:
    """A checkout whose sources went on while the built file stayed: one line, in scripts without a traceback."""
    if not extension.compiled():
        pytest.skip("splatseg._C is not built")
    for name in ("splatseg", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "cuda_ext").mkdir()
    (tmp_path / "cuda_ext/new.cpp").write_text("int x;")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=env, cwd=tmp_path, check=False, timeout=300
    )
    line = run.stderr.splitlines()[-1]
    assert "sources" in line and "stale" in line and "build_ext --inplace" in line
    if command[0] != "-c":
        assert (run.returncode, run.stderr.count("\n"), run.stdout) == (2, 1, "")
        assert line.startswith("error: splatseg._C: ")
