"""Arithmetic: deterministic operators, TF32, and products that stay in full precision."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_runner.torch_utils.precision import arithmetic, full_product, tensor_cores
from tests.helpers.precision import FACTORS, Products, factors

UNPOOL = "max_unpooling2d_forward_out does not have a deterministic implementation"
# Of torch 2.11 on a GPU, whose first product came before the variable was set.
CUBLAS = (
    "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or "
    "`at::Context::setDeterministicAlgorithms(true)`, but this operation is not deterministic because it uses CuBLAS "
    "and you have CUDA >= 10.2. To enable deterministic behavior in this case, you must set an environment variable"
)


def settings() -> tuple[Any, ...]:
    """What an arithmetic changes for the whole process."""
    options: Any = torch.utils.deterministic
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        options.fill_uninitialized_memory,
        warnings.showwarning,
        torch.backends.cudnn.benchmark,
        *(backend.fp32_precision for backend in FACTORS),
    )


@pytest.mark.parametrize("is_deterministic", [False, True])
@pytest.mark.parametrize("tf32", [False, True])
def test_an_arithmetic_holds_and_is_put_back(tf32, is_deterministic):
    before = settings()
    with arithmetic(tf32=tf32, is_deterministic=is_deterministic, say=print):
        assert factors() == ("tf32" if tf32 else "ieee")
        assert torch.are_deterministic_algorithms_enabled() == is_deterministic
        assert torch.backends.cudnn.benchmark != is_deterministic
        options: Any = torch.utils.deterministic
        assert options.fill_uninitialized_memory != is_deterministic  # nothing reads it, and it costs a kernel
        with tensor_cores(not tf32):
            pass
        assert factors() == ("tf32" if tf32 else "ieee")
    assert settings() == before
    with pytest.raises(KeyError), arithmetic(tf32=tf32, is_deterministic=is_deterministic, say=print):
        raise KeyError
    assert settings() == before


def test_what_has_no_deterministic_form_is_told_once():
    said: list[str] = []
    with arithmetic(tf32=True, is_deterministic=True, say=said.append):
        for _ in range(2):
            torch.nn.functional.max_unpool2d(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.long), [2, 2])
            warnings.warn(CUBLAS, stacklevel=1)
    assert len(said) == 2
    assert said[0].startswith(UNPOOL)
    assert "not deterministic because it uses CuBLAS" in said[1]
    assert not any("http" in line or "environment" in line for line in said)  # no advice that is for programmers


def test_other_warnings_are_not_about_it():
    said: list[str] = []
    with warnings.catch_warnings(record=True) as shown, arithmetic(tf32=True, is_deterministic=True, say=said.append):
        warnings.simplefilter("always")
        warnings.showwarning("of another kind", UserWarning, "here", 1)
    assert said == []
    assert len(shown) == 1


@pytest.mark.parametrize("module", ["gan_runner", "gan_runner.sweeps.launchers"])
def test_what_cublas_reads_is_set_by_the_import(module):
    """However the package comes into a process: PyTorch reads it at the first product. A user's own value stays."""
    code = f"import {module}, os, sys; print(os.environ['CUBLAS_WORKSPACE_CONFIG'], 'torch' in sys.modules)"
    for own, expected in ({}, ":4096:8"), ({"CUBLAS_WORKSPACE_CONFIG": ":16:8"}, ":16:8"):
        environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"} | own
        ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found, has_torch = ran.stdout.split()
        assert found == expected
        assert (has_torch == "True") == ("precision" in module)


def some(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture
def _tf32() -> Iterator[None]:
    with tensor_cores(True):
        yield


@pytest.mark.usefixtures("_tf32")
@pytest.mark.parametrize("leading", [(), (2,)])
def test_a_full_product_is_a_product_that_nothing_rounds(leading):
    left, right = some(*leading, 3, 4), some(*leading, 4, 2)
    assert torch.equal(full_product(left, right), left @ right)
    assert torch.autograd.gradcheck(full_product, (left, right))
    assert torch.autograd.gradgradcheck(full_product, (left, right))
    with torch.autocast("cpu", torch.bfloat16), Products() as seen:
        made = full_product(left.float(), right.float())
        assert made.dtype == torch.float32
        made.sum().backward()
    assert seen.seen == [("ieee", False)] * 3
