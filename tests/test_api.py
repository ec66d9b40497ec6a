"""The public API: ``import splatseg`` and nothing below it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_capture import TINY, write_capture

import splatseg
from splatseg.core.errors import SplatsegError

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("api") / "scene")


def readme_example() -> str:
    (block,) = re.findall(r"```python\n(import splatseg\n.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    return block


def test_the_import_loads_neither_torch_nor_a_room() -> None:
    names = "('torch', 'numpy', 'splatseg.')"
    code = f"import sys, splatseg; print(sorted(m for m in sys.modules if m.startswith({names})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "['splatseg._libz']\n"


def test_every_name_is_there_and_no_other_is_shown() -> None:
    assert dir(splatseg) == sorted(splatseg.__all__) and set(splatseg._PUBLIC) == set(splatseg.__all__) - {
        "__version__"
    }
    for name in splatseg.__all__:
        assert getattr(splatseg, name) is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+", splatseg.__version__)
    with pytest.raises(AttributeError, match="has no attribute 'fit_everything'"):
        _ = splatseg.fit_everything


def test_a_program_of_a_user_is_type_checked(tmp_path: Path) -> None:
    """The package says its types (``py.typed``), also those of names that are imported late."""
    program = tmp_path / "program.py"
    program.write_text(readme_example() + "reveal_type(splat.discretize())\nsplat.click(view, 'left', 36)\n")
    # What is others' takes most of the time and is not asked for; the package itself is checked by `make lint`.
    others = [f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in ("torch", "numpy", "scipy", "PIL", "gsplat")]
    ours = "[mypy]\nignore_missing_imports = true\n[mypy-splatseg.*]\nfollow_imports = silent\n"
    (tmp_path / "mypy.ini").write_text(ours + "".join(others))
    settings = ["--config-file", str(tmp_path / "mypy.ini"), "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "mypy", *settings, str(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"MYPYPATH": str(ROOT)})
    told = done.stdout
    assert 'Revealed type is "splatseg.core.label_tree.LabelTree"' in told, told + done.stderr
    assert 'Argument 2 to "click" of "SegmentableSplat" has incompatible type "str"; expected "float"' in told
    assert told.count("error:") == 1


def test_the_lines_of_the_readme_run_twice(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "captures").mkdir()
    (tmp_path / "captures" / "kitchen").symlink_to(capture)
    monkeypatch.chdir(tmp_path)
    fit = splatseg.fit_scene
    monkeypatch.setattr(splatseg, "fit_scene", lambda scene, out: fit(scene, out, capture / "masks_2d", TINY))
    told = []
    for _ in range(2):
        exec(compile(readme_example(), "README.md", "exec"), {})
        told.append(capsys.readouterr().out)
        splat = splatseg.load_ply("labels.ply")
        tree = splatseg.load_labels("labels.ply", splat)
        part = splatseg.load_ply("part.ply")
        assert 0 < len(part) < len(splat) == len(tree) and tree.labels.min() > 0
    assert told[0] == told[1] and "Gaussians, score above" in told[0]


def test_a_click_finds_what_a_session_finds(capture: Path, tmp_path: Path) -> None:
    splat = splatseg.fit_scene(capture, tmp_path / "run", capture / "masks_2d", TINY)
    view = splatseg.load_colmap(capture).views[0]
    session = splatseg.open_run(tmp_path / "run")
    session.click(view.name, 48.5, 36.5)
    found = splat.click(view, 48.5, 36.5)
    assert torch.equal(found.selection.mask, session.selection.mask)
    session.click(view.name, 20.5, 60.5, "subtract")
    assert len(splat.click(view, 48.5, 36.5, subtract=((20.5, 60.5),)).scores.values) == len(splat)


def test_features_of_another_splat_are_refused(capture: Path, tmp_path: Path) -> None:
    splat = splatseg.fit_scene(capture, tmp_path / "run", capture / "masks_2d", TINY)
    fewer = splat.gaussians.select(torch.arange(len(splat)) > 0)
    with pytest.raises(SplatsegError, match="features: expected"):
        splatseg.SegmentableSplat(fewer, splat.field)
