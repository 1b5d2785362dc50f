"""A device that this machine does not have, with real values: torch's FakeTensorMode beside the same sums on the CPU.

`FakeTensorMode` follows shapes, types and devices of tensors that say `cuda`, with no driver, and raises where an
operation mixes devices. It has no values, so that it stops at the first one that decides something, and without a
driver it has no backward pass. `FakeDevice` runs each operation there and on the CPU too: programs run to their end,
their results can be compared with the CPU's, and whatever makes the host wait for the device is noted in `waits`.

    with FakeDevice("cuda") as fake:
        y = torch.ones(3, device="cuda") * 2      # y.device is cuda:0; y + torch.ones(3) raises RuntimeError
        y.cpu().numpy()                           # [2, 2, 2]; fake.waits == ["_to_copy to the host"]

It shows nothing of a GPU's own arithmetic, memory or speed. torch.autocast is imitated: products in the type that was
asked for, norms and softmax in float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

# What C++ is told: its autograd would look for the streams of a GPU, but computes for this one as for the CPU.
TOLD = torch.device("meta", 1)
SHOWN = "cuda"  # what FakeTensorMode is told; it does not know mps
HAS_NO_FLOAT64 = ("mps",)


class FarTensor(torch.Tensor):
    """A tensor on the fake device: `shown`, what FakeTensorMode knows of it, and `value`, the same on the CPU."""

    shown: FakeTensor
    value: torch.Tensor
    home: FakeDevice

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def of(shown: FakeTensor, value: torch.Tensor, home: FakeDevice) -> FarTensor:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            FarTensor, value.shape, strides=value.stride(), dtype=value.dtype, device=TOLD
        )
        made.shown, made.value, made.home = shown, value, home
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device(self.home.kind, 0)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"FarTensor({self.value})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func}: of a tensor of a fake device, outside of it")


class FakeDevice(TorchDispatchMode):
    """Within, tensors can be on `kind` (cuda or mps) though the machine has none; those on the CPU stay real."""

    def __init__(self, kind: str = "cuda") -> None:
        super().__init__()
        self.kind = kind
        self.waits: list[str] = []
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> FakeDevice:
        self._patches.enter_context(mock.patch("torch.autocast", _autocast))
        self._patches.enter_context(mock.patch("torch.load", _outside(torch.load)))
        # Wrapped tensors cannot be of inference mode; no_grad computes the same.
        self._patches.enter_context(mock.patch("torch._C._InferenceMode", lambda _on: torch.no_grad()))
        if self.kind != SHOWN:
            self._patches.enter_context(_Renamed(self.kind))
        self._patches.enter_context(self._fake)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat, form = tree_flatten((args, kwargs))
        if not any(isinstance(given, FarTensor) or self._names_it(given) for given in flat):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        shown: Any = None
        inner, named = tree_unflatten([self._shown_of(given) for given in flat], form)
        try:
            shown = func(*inner, **named)  # FakeTensorMode's, which raises where devices are mixed
        except (DataDependentOutputException, DynamicOutputShapeException):
            self._check_one_device(func, flat)
            self.waits.append(func._opname)
        inner, named = tree_unflatten([_value_of(given) for given in flat], form)
        with unset_fake_temporarily():
            values = func(*inner, **named)
        self._note_copies(func, args, kwargs)
        known = {id(given.shown): given for given in flat if isinstance(given, FarTensor)}
        outer, form = tree_flatten(values)
        inner = tree_flatten(shown)[0] if shown is not None else [None] * len(outer)
        return tree_unflatten([self._joined(*pair, known) for pair in zip(inner, outer, strict=True)], form)

    def _joined(self, shown: Any, value: Any, known: dict[int, FarTensor]) -> Any:
        """A result: a tensor that was written to, one of the device, or what is on the CPU and thus real."""
        if id(shown) in known:
            return known[id(shown)]
        if not isinstance(value, torch.Tensor):
            return value
        if shown is None:  # its shape was known from the values alone
            shown = torch.empty(value.shape, dtype=value.dtype, device=SHOWN)
        if shown.device.type == "cpu":
            return value
        assert (shown.shape, shown.dtype) == (value.shape, value.dtype), (shown, value)
        if self.kind in HAS_NO_FLOAT64 and value.dtype == torch.float64:
            raise TypeError(f"{self.kind} has no float64")
        return FarTensor.of(shown, value, self)

    def _names_it(self, given: Any) -> bool:
        return isinstance(given, torch.device) and (given.type == self.kind or given == TOLD)

    def _shown_of(self, given: Any) -> Any:
        if isinstance(given, FarTensor):
            return given.shown
        return torch.device(SHOWN) if self._names_it(given) else given

    def _check_one_device(self, func: Any, flat: list[Any]) -> None:
        """For the operations that FakeTensorMode gives up before it has looked at devices."""
        kinds = {given.device.type for given in flat if isinstance(given, torch.Tensor) and given.ndim}
        if "index" not in func._opname and len(kinds) > 1:
            raise RuntimeError(f"{func}: tensors on two devices")

    def _note_copies(self, func: Any, args: Any, kwargs: Any) -> None:
        """Copies make the host wait, unless they go to the device and need not be complete; so do masks as indices."""
        name = func._opname
        if name == "_to_copy":
            target = kwargs.get("device") or args[0].device
            there = self._names_it(target)
            self._note_copy(name, args[0], there, kwargs.get("non_blocking", False))
        elif name == "copy_":
            self._note_copy(name, args[1], isinstance(args[0], FarTensor), args[2:] == (True,))
        elif name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"):
            for index in args[1]:
                if index is not None and (index.device.type == "cpu" or index.dtype == torch.bool):
                    if name not in self.waits[-1:]:
                        self.waits.append(name)
                    break

    def _note_copy(self, name: str, source: torch.Tensor, to_it: bool, non_blocking: bool) -> None:
        on_it = isinstance(source, FarTensor)
        if on_it and not to_it:
            self.waits.append(f"{name} to the host")
        elif to_it and not on_it and source.ndim and not non_blocking:
            self.waits.append(f"{name} to the device")


def _value_of(given: Any) -> Any:
    if isinstance(given, FarTensor):
        return given.value
    return torch.device("cpu") if isinstance(given, torch.device) else given


def _outside(work: Callable[..., Any]) -> Callable[..., Any]:
    """For torch.load, which reads no values where it sees a FakeTensorMode."""

    def call(*arguments: Any, **named: Any) -> Any:
        with unset_fake_temporarily():
            return work(*arguments, **named)

    return call


class _Renamed(TorchFunctionMode):
    """For a device that this torch was built without, which refuses its name before it asks anybody."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        flat, form = tree_flatten((args, kwargs or {}))
        args, kwargs = tree_unflatten([TOLD if self._is(given) else given for given in flat], form)
        return func(*args, **kwargs)

    def _is(self, given: Any) -> bool:
        return (
            given == self.kind
            if isinstance(given, str)
            else isinstance(given, torch.device) and given.type == self.kind
        )


class _Autocast(TorchFunctionMode):
    PRODUCTS = (
        "linear",
        "matmul",
        "mm",
        "bmm",
        "addmm",
        "conv2d",
        "scaled_dot_product_attention",
        "multi_head_attention_forward",
    )
    EXACT = ("layer_norm", "softmax", "group_norm", "rms_norm")
    enabled = True

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "").strip("_").replace("rmatmul", "matmul")
        dtype = self.dtype if name in self.PRODUCTS else torch.float32 if name in self.EXACT else None
        flat, form = tree_flatten((args, kwargs or {}))
        if dtype is not None and self.enabled:
            flat = [
                given.to(dtype) if isinstance(given, FarTensor) and given.is_floating_point() else given
                for given in flat
            ]
        args, kwargs = tree_unflatten(flat, form)
        return func(*args, **kwargs)


@contextlib.contextmanager
def _autocast(device_type: str, dtype: torch.dtype | None = None, enabled: bool = True) -> Iterator[None]:
    assert device_type != "cpu"
    if not enabled:
        with mock.patch.object(_Autocast, "enabled", False):
            yield
        return
    assert dtype in (torch.float16, torch.bfloat16)
    with _Autocast(dtype):
        yield
