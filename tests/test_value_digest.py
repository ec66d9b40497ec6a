"""The digest of tensors and what holds them: equal for what is equal to the bit, another for anything else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from splatseg.core.errors import SplatsegError
from splatseg.core.value_digest import value_digest


def test_it_depends_on_values_and_not_on_how_they_lie_in_memory() -> None:
    x = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    for same in (x.clone(), x.T.contiguous().T, torch.cat([x, x])[3:]):
        assert value_digest({"a": same}) == value_digest({"a": x})
    one = torch.tensor([7], dtype=torch.int32)
    for same in (one.expand(1), torch.from_numpy(np.broadcast_to(np.int32(7), 1).copy()), one.as_strided((1,), (0,))):
        assert value_digest(same) == value_digest(one)
    none = torch.zeros(0, 3, dtype=torch.int32)
    assert value_digest(none.as_strided((0, 3), (0, 0))) == value_digest(none)
    assert value_digest(torch.tensor(2.0, dtype=torch.bfloat16)) == value_digest(
        torch.tensor(2.0, dtype=torch.bfloat16)
    )


def test_different_things_have_different_digests() -> None:
    x = torch.zeros(4)
    different = [
        *(None, False, 0, 0.0, "0", b"0", "", [], (), {}, [0], (0,), {"a": 0}, {"a": 0.0}, {"b": 0}, [[], []], [[[]]]),
        *(x, x.double(), x.int(), x.reshape(2, 2), x.reshape(4, 1), -x, torch.zeros(0), torch.tensor(0.0), x.bool()),
        *([x], {"x": x}, ["a", "b"], ["ab"], ["a", "", "b"], {"a": [1, 2]}, {"a": [1], "b": 2}, [x[:2], x[2:]], [x, x]),
        *(float("nan"), 1e400, -0.0, 10**30),
    ]
    assert len({value_digest(value) for value in different}) == len(different)


def test_what_it_does_not_know_is_refused() -> None:
    with pytest.raises(SplatsegError, match="expected tensors, numbers and text, found set"):
        value_digest({"a": {1}})
