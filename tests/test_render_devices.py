"""Which device a fit takes: the names, what stands in the way of CUDA, and how a person is told."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from splatseg.core.errors import SplatsegError
from splatseg.ops.extension import BuildInfo
from splatseg.render import backends, choose_device

ROOT = Path(__file__).parent.parent


def pretend(monkeypatch: pytest.MonkeyPatch, version: str | None, gpu: bool, kernels: bool | None) -> None:
    monkeypatch.setattr(torch.version, "cuda", version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    info = None if kernels is None else BuildInfo("avx2", kernels)
    monkeypatch.setattr(backends, "build_info", lambda: info)


@pytest.mark.parametrize(
    ("version", "gpu", "kernels", "reason"),
    [
        (None, False, False, "this torch is built for the CPU"),
        ("13.0", False, True, "no GPU answers; see nvidia-smi"),
        ("13.0", True, False, "SPLATSEG_CUDA=1 pip install"),
        ("13.0", True, None, "SPLATSEG_CUDA=1 pip install"),
    ],
)
def test_obstacles(
    monkeypatch: pytest.MonkeyPatch, version: str | None, gpu: bool, kernels: bool | None, reason: str
) -> None:
    """``cuda`` says what is missing; ``auto`` computes on the CPU, with a warning where a GPU lies idle."""
    pretend(monkeypatch, version, gpu, kernels)
    with pytest.raises(SplatsegError, match=f"expected a usable CUDA device, found none .*{reason}"):
        choose_device("cuda")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    assert len(caught) == int(gpu)


def test_cuda_where_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "13.0", True, True)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(SplatsegError, match="expected auto, cpu or cuda, found 'tpu'"):
        choose_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fit_without_a_gpu_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    scene.mkdir()
    command = [sys.executable, "scripts/fit.py", str(scene), "--out", str(tmp_path / "run"), "--device", "cuda"]
    result = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: device: expected a usable CUDA device")
    assert not (tmp_path / "run").exists()
