"""Matrix products in float32 at the machine's best rate, and none less exact than the default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch


@lru_cache(maxsize=1)
def float32_precision() -> str:
    """The `torch.set_float32_matmul_precision` to use on this CPU: "medium" where it is float32 all the same.

    On CPUs without wider units "medium" selects oneDNN's float32 kernels, which can be twice as fast as the
    default's; on others it rounds to bfloat16. So its error is measured, once, against float64. Speed is left
    out of the choice, because a choice by clock could differ between two runs of one command.
    """
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(256, 512, generator=generator)
    right = torch.randn(256, 512, generator=generator)
    exact = left.double() @ right.double().T
    errors = {}
    before = torch.get_float32_matmul_precision()
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        errors[precision] = float((left @ right.T - exact).norm() / exact.norm())
    torch.set_float32_matmul_precision(before)
    return "medium" if errors["medium"] < 4 * errors["highest"] else "highest"


@contextmanager
def float32_matmul() -> Iterator[None]:
    """Within, products of float32 matrices on the CPU use the precision chosen by `float32_precision`."""
    precision = float32_precision()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
