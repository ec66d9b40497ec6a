"""What ``make wheel`` makes, installed in a fresh virtual environment away from the checkout, does the whole job.

As a part of all tests the wheel takes the extension that is already built, and the environment the dependencies that
are already installed: no network. ``SPLATSEG_WHEEL_TEST=full`` compiles the extension and installs every
dependency from the package index (torch among them): ten minutes and some GB, for before a release.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from plyfile import PlyData

import splatseg

ROOT = Path(__file__).parent.parent
FULL = os.environ.get("SPLATSEG_WHEEL_TEST") == "full"
PROGRAM = """
import sys
from pathlib import Path
import splatseg
session = splatseg.open_run(sys.argv[1])
view = session.workspace.views[0]
session.click(view.name, view.camera.width / 2, view.camera.height / 2)
splat = splatseg.load_ply(Path(sys.argv[1]) / "labels.ply")
tree = splatseg.load_labels(Path(sys.argv[1]) / "labels.ply", splat)
assert 0 < len(session.selection) < len(splat) == len(tree)
print(splatseg.__file__, splatseg.__version__)
"""


def called(*command: object, cwd: Path, **variables: str) -> str:
    """Standard output of a command that must succeed, with nothing of the checkout in its environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def pip(*arguments: object, cwd: Path, **variables: str) -> str:
    quiet = ("--quiet", "--disable-pip-version-check")
    return called(sys.executable, "-m", "pip", *quiet, *arguments, cwd=cwd, **variables)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources: what an earlier build left in the checkout is in no wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("splatseg", *(["cuda_ext"] if FULL else [])):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    built = importlib.util.find_spec("splatseg._C")
    assert built is not None and built.origin is not None
    variables = {} if FULL else {"SPLATSEG_BUILT": built.origin}
    pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, source, cwd=folder, **variables)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``bin`` of a fresh environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    called(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    if FULL:
        pip("--python", folder / "bin/python", "install", f"{wheel}[viewer]", cwd=folder.parent)
        return folder / "bin"
    (packages,) = folder.glob("lib/python*/site-packages")
    # A folder named in a .pth is searched, its own .pth files (the editable install of the checkout) are not read.
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    pip("--python", folder / "bin/python", "install", "--no-deps", "--no-index", wheel, cwd=folder.parent)
    return folder / "bin"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(about).decode()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"splatseg", f"splatseg-{splatseg.__version__}.dist-info"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "splatseg").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}
    assert "splatseg/py.typed" in names and sum(name.startswith("splatseg/_C") for name in names) == 1
    for line in (
        "Classifier: Operating System :: POSIX :: Linux",
        "Requires-Dist: gsplat<1.7,>=1.5.3",
        'Requires-Dist: viser<1.2,>=1.1; extra == "viewer"',
        "Requires-Dist: pycolmap<5,>=4.0",
    ):
        assert line in metadata.splitlines()


@pytest.mark.slow
def test_the_installed_wheel_does_the_job(environment: Path, tmp_path: Path) -> None:
    told = called(environment / "splatseg", "demo", "--small", "--out", "run", cwd=tmp_path)
    assert "demo done in" in told and "labeled splat   run/labels.ply" in told
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert figures["psnr_held_out"] > 10 and "hierarchical" in figures
    assert "label_0" in {p.name for p in PlyData.read(tmp_path / "run" / "labels.ply")["vertex"].properties}
    told = called(environment / "python", "-c", PROGRAM, tmp_path / "run", cwd=tmp_path)
    place, version = told.split()
    assert Path(place).is_relative_to(environment.parent) and version == splatseg.__version__
    shown = called(environment / "splatseg", "doctor", cwd=tmp_path)
    assert "splatseg._C" in shown and "not built" not in shown
