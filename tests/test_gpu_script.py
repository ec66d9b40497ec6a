"""``benchmarks/gpu.sh`` where there is no GPU: it says so and leaves with 3, before anything is built or run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def gpu(work: Path, *parts: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "GPU_WORK": str(work)}
    command = ["bash", "benchmarks/gpu.sh", *parts]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("parts", [[], ["loss", "steps"], ["proofs"]])
def test_no_gpu(tmp_path: Path, parts: list[str]) -> None:
    result = gpu(tmp_path, *parts)
    assert result.returncode == 3
    assert result.stderr.startswith("gpu: no CUDA device to be had here") and result.stderr.count("\n") == 1
    assert not result.stdout and not list(tmp_path.iterdir())


def test_unknown_part(tmp_path: Path) -> None:
    result = gpu(tmp_path, "everything")
    assert result.returncode == 2 and "no part 'everything'" in result.stderr and "racecheck" in result.stderr
