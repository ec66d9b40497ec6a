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

ROOT = Path(__file__).parent.parent


def test_declared_operators_are_found_in_the_sources() -> None:
    """Also those whose schema is several literals, or followed by tags."""
    declared = extension.declared_operators(ROOT / "cuda_ext")
    names = {text.partition("(")[0] for text in declared}
    assert {"patches", "patch_votes", "rasterize", "hierarchical_contrastive_loss", "sparse_adam_"} <= names
    assert "patch_votes(Tensor membership) -> Tensor" in declared
    assert extension.declared_operators(ROOT / "nowhere") == []  # an installed wheel


@pytest.mark.parametrize(
    ("declared", "found"),
    [
        ("brand_new_op(Tensor x) -> Tensor", "found none"),
        ("patch_votes(Tensor membership, int least) -> Tensor", "found it with other arguments"),
    ],
)
def test_stale_extension(declared: str, found: str) -> None:
    """An op that the build does not have; one whose arguments changed after it."""
    if not extension.compiled():
        pytest.skip("splatseg._C is not built")
    extension.check_operators(["patch_votes(Tensor membership) -> Tensor"])
    with pytest.raises(SplatsegError, match=rf"splatseg::\w+ .*{found}.* stale.* python setup.py build_ext") as error:
        extension.check_operators([declared])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("command", [["-c", "import splatseg.ops"], ["scripts/fit.py", "scene"]])
def test_stale_extension_at_import(tmp_path: Path, command: list[str]) -> None:
    """A checkout whose sources went on while the built file stayed: one line, in scripts without a traceback."""
    if not extension.compiled():
        pytest.skip("splatseg._C is not built")
    for name in ("splatseg", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "cuda_ext").mkdir()
    (tmp_path / "cuda_ext/new.cpp").write_text('m.def("brand_new_op(Tensor x) "\n    "-> Tensor");\n')
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=env, cwd=tmp_path, check=False, timeout=300
    )
    line = run.stderr.splitlines()[-1]
    assert "splatseg::brand_new_op" in line and "stale" in line and "build_ext --inplace" in line
    if command[0] != "-c":
        assert (run.returncode, run.stderr.count("\n"), run.stdout) == (2, 1, "")
        assert line.startswith("error: splatseg._C: ")
