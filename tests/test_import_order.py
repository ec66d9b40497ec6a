"""libz before pycolmap, whoever imports what first: each order in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PNG = """
import io
from PIL import Image
buffer = io.BytesIO()
Image.effect_noise((300, 300), 50).save(buffer, "PNG")
Image.open(io.BytesIO(buffer.getvalue())).load()
print("png", flush=True)
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "imports",
    [
        "from splatseg.io.colmap import load_colmap; import pycolmap",
        "import zlib, pycolmap, splatseg",
    ],
)
def test_pngs_are_read_and_written_after(imports: str) -> None:
    done = python(imports + PNG)
    assert (done.returncode, done.stdout) == (0, "png\n"), done.stderr[-500:]


def test_pycolmap_first_of_all_is_said_in_one_line_and_not_by_an_abort() -> None:
    """It cannot be mended (libz is bound); where pycolmap and libz get on, it is nothing."""
    done = python("import pycolmap, splatseg" + PNG)
    assert done.returncode in (0, 1)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        assert "expected 'import splatseg' (or 'import zlib') before 'import pycolmap'" in last
    else:
        assert done.stdout == "png\n"


FIT_BEGINS = """
import sys, torch, splatseg.cli.fit, splatseg.cli.view
from splatseg.core.scene import Points
from splatseg.fit.geometry import GeometryConfig
from splatseg.fit.geometry.init import gaussians_from_points
from splatseg.fit.geometry.state import FitState
config = GeometryConfig()
points = Points(torch.rand(9, 3), torch.zeros(9, 3, dtype=torch.uint8))
FitState(gaussians_from_points(points, config), 1.0, config)
print({"pycolmap", "torch._dynamo", "hdbscan", "sklearn"} & set(sys.modules))
"""


def test_what_takes_seconds_to_import_is_in_no_process_that_does_not_need_it() -> None:
    """COLMAP, torch's compiler (a torch optimizer imports it, too), and scikit-learn by way of hdbscan."""
    done = python(FIT_BEGINS)
    assert done.stdout == "set()\n", done.stdout + done.stderr[-500:]


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_what_the_command_says_of_itself_waits_for_no_torch(word: str) -> None:
    code = "import sys; from splatseg.cli.command import main; sys.argv = ['splatseg', sys.argv[1]]"
    code += "\ntry: main()\nexcept SystemExit as ending: print(ending.code, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, word], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "0 False", done.stdout + done.stderr
