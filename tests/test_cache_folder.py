"""The one cache folder: by our variable, the desktop's, or the system's custom."""

from __future__ import annotations

from pathlib import Path

import pytest

from splatseg.core.cache_folder import cache_folder


def test_ours_before_the_desktops_before_the_custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SPLATSEG_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / "home/.cache/splatseg"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/splatseg"
    monkeypatch.setenv("SPLATSEG_CACHE", str(tmp_path / "ours"))
    assert cache_folder() == tmp_path / "ours"
    monkeypatch.setenv("SPLATSEG_CACHE", "")
    assert cache_folder() == tmp_path / "xdg/splatseg"
    assert not list(tmp_path.iterdir())  # asking makes nothing
