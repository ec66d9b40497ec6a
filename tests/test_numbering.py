"""Numbers of names without sorting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splatseg.core.label_tree import build_nodes
from splatseg.core.numbering import numbered


@given(st.lists(st.integers(0, 40), max_size=60), st.sampled_from([1, 1_000_003]))
@settings(max_examples=60, deadline=None)
def test_numbers_are_those_of_unique(values: list[int], apart: int) -> None:
    """Near each other, which are marked, and far apart, which are sorted."""
    names = np.array(values, np.int64) * apart
    found, number = numbered(names)
    wanted, inverse = np.unique(names, return_inverse=True)
    assert np.array_equal(found, wanted) and np.array_equal(number, inverse.ravel())
    assert found.dtype == number.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.int32, np.uint16])
def test_columns_of_a_table(dtype: type) -> None:
    table = np.array([[7, 1], [3, 0], [7, 2]], dtype)
    assert numbered(table[:, 0])[1].tolist() == [1, 0, 1]


def test_a_label_is_named_where_it_first_stands() -> None:
    """Labels that do not nest yet: 5 stands in 1 first, and counts all of its Gaussians."""
    nodes = {node.id: node for node in build_nodes(np.array([[1, 5], [2, 5], [2, 4]], np.int32))}
    assert nodes[5].parent == 1 and nodes[5].count == 2 and nodes[4].name == "2.1"
