"""Checks name the argument, the expectation and what came, on one line."""

from __future__ import annotations

import pytest
import torch

from splatseg.core.errors import MissingExtraError, SplatsegError, check_dims, check_finite, require_extra


def test_dims_bind_names_and_return_them_without_touching_the_callers() -> None:
    bound = {"n": 4}
    sizes = check_dims("x", torch.zeros(4, 7, 3), ("n", "k", 3), bound)
    assert sizes == {"n": 4, "k": 7} and bound == {"n": 4}
    assert check_dims("scalar", torch.tensor(1.0), ()) == {}


@pytest.mark.parametrize(
    ("shape", "dims", "message"),
    [
        ((4,), ("n", 3), r"x: expected shape \(n=5, 3\), found \(4,\)"),  # too few dimensions
        ((5, 3, 1), ("n", 3), r"x: expected shape \(n=5, 3\), found \(5, 3, 1\)"),  # too many
        ((5, 4), ("n", 3), r"x: expected shape \(n=5, 3\), found \(5, 4\)"),  # a fixed size
        ((6, 3), ("n", 3), r"x: expected shape \(n=5, 3\), found \(6, 3\)"),  # a name bound before
        ((2, 3), ("k", "k"), r"x: expected shape \(k, k\), found \(2, 3\)"),  # a name bound by the same tensor
    ],
)
def test_dims_that_do_not_match_are_named(shape: tuple[int, ...], dims: tuple[str | int, ...], message: str) -> None:
    with pytest.raises(SplatsegError, match=message):
        check_dims("x", torch.zeros(shape), dims, {"n": 5})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_first_non_finite_entry_is_named(value: float) -> None:
    x = torch.zeros(3, 4)
    check_finite("x", x)
    x[2, 1], x[2, 3] = value, float("nan")
    with pytest.raises(SplatsegError, match=rf"^x: expected finite values, found {value} at index \(2, 1\)$"):
        check_finite("x", x)


def test_finite_accepts_empty_and_integer_tensors() -> None:
    check_finite("x", torch.zeros(0, 3))
    check_finite("x", torch.arange(3))


def test_one_error_class_catches_all_and_is_a_value_error() -> None:
    error = require_extra("segment_anything", "sam")
    assert isinstance(error, MissingExtraError) and isinstance(error, SplatsegError) and isinstance(error, ValueError)
    assert str(error) == "segment_anything: not installed; install it with: pip install 'splatseg[sam]'"
