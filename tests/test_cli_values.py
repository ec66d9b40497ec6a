"""Numbers on a command line: every type that the commands use, given, left out and refused."""

from __future__ import annotations

from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import pytest

from splatseg.cli.endings import parse
from splatseg.cli.values import Numbers
from splatseg.core.errors import SplatsegError

KINDS = [
    (int, 3, "7", 7),
    (int, 3, "-7", -7),
    (float, 0.5, "1e-3", 1e-3),
    (float, 0.5, "-2", -2.0),
    (int | None, None, "7", 7),
    (int | None, 3, "None", None),
    (float | None, None, "0.25", 0.25),
    (tuple[float, float], (1.0, 2.0), "3 -4.5", (3.0, -4.5)),
    (tuple[int, int] | None, None, "3 4", (3, 4)),
    (tuple[int, int] | None, (1, 2), "None", None),
    (tuple[int, ...], (1,), "5 6 7", (5, 6, 7)),
    (tuple[float, ...], (), "5", (5.0,)),
    (list[tuple[float, float]], [], "1 2 3 4", [(1.0, 2.0), (3.0, 4.0)]),
]


@pytest.mark.parametrize(("kind", "default", "words", "value"), KINDS)
def test_numbers_are_read_as_they_are_written(
    kind: Any, default: Any, words: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = make_dataclass("Options", [("some", kind)], frozen=True)
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["x", "--some", *words.split()])
        assert parse(options).some == value
        monkeypatch.setattr("sys.argv", ["x"])
        assert parse(options, default=options(default)).some == default


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        (int, "q", "--some: expected a whole number, found 'q'."),
        (int, "1.5", "--some: expected a whole number, found '1.5'."),
        (float | None, "q", "--some: expected a number, found 'q'."),
        (tuple[float, float], "q 3", "--some: expected 2 numbers, found 'q 3'."),
        (tuple[float, float], "3", "'--some'. Expected 2 values."),
        (tuple[int, int] | None, "3 1e3", "--some: expected 2 whole numbers, found '3 1e3'."),
        (tuple[int, int] | None, "3", "--some: expected 2 whole numbers, found '3'."),
        (tuple[int, ...], "3 q 4", "--some: expected whole numbers, found '3 q 4'."),
    ],
)
def test_other_words_are_refused_in_plain_ones(
    kind: Any, words: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = make_dataclass("Options", [("some", kind)], frozen=True)
    monkeypatch.setattr("sys.argv", ["x", "--some", *words.split()])
    for _ in range(2):
        with pytest.raises(SplatsegError) as error:
            parse(options)
        assert message in str(error.value)


@pytest.mark.parametrize("kind", [str, Path | None, bool, tuple[int, float], tuple[str, ...], int | str, list[str]])
def test_other_types_are_left_to_tyro(kind: Any) -> None:
    assert Numbers.of(kind) is None
