"""Batches, compared."""

from typing import Any

import torch


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if one is None:
        return
    for mine, theirs in zip(one, other, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine.stride() == theirs.stride()
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs)
