"""The operations of intrinsics.py as LLVM's portable instructions; only compiled code can call them."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from saetools.compute.selection import SIMD_WIDTH

I1, I16, I32, I64, F32 = ir.IntType(1), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
LARGEST = np.finfo(np.float32).max
LANES_I32, LANES_F32 = ir.VectorType(I32, SIMD_WIDTH), ir.VectorType(F32, SIMD_WIDTH)


def _is_row(row):
    is_array = isinstance(row, types.Array) and row.ndim == 1 and row.layout == "C"
    return is_array and row.dtype in (types.float32, types.uint16)


def _load(context, builder, kind, array, first):
    """16 float32 from an index of a 1-D array on, widened if they are the bits of bfloat16."""
    data = context.make_array(kind)(context, builder, array).data
    element = F32 if kind.dtype == types.float32 else I16
    place = builder.bitcast(builder.gep(data, [first]), ir.VectorType(element, SIMD_WIDTH).as_pointer())
    loaded = builder.load(place)
    loaded.align = 4 if element is F32 else 2
    if element is F32:
        return loaded
    wide = builder.shl(builder.zext(loaded, LANES_I32), ir.Constant(LANES_I32, [16] * SIMD_WIDTH))
    return builder.bitcast(wide, LANES_F32)


def _spread(builder, value):
    undefined = ir.Constant(LANES_F32, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(LANES_I32, [0] * SIMD_WIDTH))


def _value_and_margin(context, builder, signature, args):
    """z + bias, and error + share |z|, of 16 latents; args = (z, bias, first, error, share, ...).

    The margin of an infinite z is finite, since 0 times infinity would hide it.
    """
    z = _load(context, builder, signature.args[0], args[0], args[2])
    value = builder.fadd(z, _load(context, builder, signature.args[1], args[1], args[2]))
    without_sign = builder.and_(
        builder.bitcast(z, LANES_I32), ir.Constant(LANES_I32, [0x7FFFFFFF] * SIMD_WIDTH)
    )
    size, largest = (
        builder.bitcast(without_sign, LANES_F32),
        ir.Constant(LANES_F32, [float(LARGEST)] * SIMD_WIDTH),
    )
    size = builder.select(builder.fcmp_ordered("<", size, largest), size, largest)
    product = builder.fmul(_spread(builder, args[4]), size, flags=("contract",))
    return value, builder.fadd(_spread(builder, args[3]), product, flags=("contract",))


def _raise_maxima(_context, z, bias, first, error, share, maxima, n):
    if not (_is_row(z) and _is_row(bias)):
        return None

    def codegen(context, builder, signature, args):
        value, margin = _value_and_margin(context, builder, signature, args)
        before = _load(context, builder, signature.args[5], args[5], args[6])
        lower = builder.fsub(value, margin)
        larger = builder.select(builder.fcmp_ordered(">", lower, before), lower, before)
        data = context.make_array(signature.args[5])(context, builder, args[5]).data
        place = builder.bitcast(builder.gep(data, [args[6]]), LANES_F32.as_pointer())
        builder.store(larger, place).align = 4
        return context.get_dummy_value()

    return types.void(z, bias, first, error, share, maxima, n), codegen


# maxima[n + j] becomes z + bias - (error + share |z|) of latent first + j where that is larger, for j < 16.
# z is a row of float32 or of the bits of bfloat16, bias and maxima are float32, error and share too; indices uint64.
raise_maxima: Any = intrinsic(_raise_maxima)


def _bits_at_least(_context, z, bias, first, error, share, bound):
    if not (_is_row(z) and _is_row(bias)):
        return None

    def codegen(context, builder, signature, args):
        value, margin = _value_and_margin(context, builder, signature, args)
        reach = builder.fcmp_ordered(">=", builder.fadd(value, margin), _spread(builder, args[5]))
        return builder.zext(builder.bitcast(reach, I16), I64)

    return types.uint64(z, bias, first, error, share, bound), codegen


# Bit j < 16 of an uint64: whether z + bias + (error + share |z|) >= bound for latent first + j. NaN is not.
bits_at_least: Any = intrinsic(_bits_at_least)


def _prefetch(_context, table, row):
    if not (
        isinstance(table, types.Array) and table.ndim == 2 and table.layout == "C" and row == types.uint64
    ):
        return None

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        stride = builder.extract_value(array.strides, 0)
        pointer = ir.IntType(8).as_pointer()
        start = builder.gep(builder.bitcast(array.data, pointer), [builder.mul(stride, args[1])])
        kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        for line in range(2):  # the first cache lines: what follows them the processor foresees
            place = builder.gep(start, [ir.Constant(I64, 64 * line)])
            builder.call(function, [place, ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)])
        return context.get_dummy_value()

    return types.void(table, row), codegen


# Starts to bring the beginning of a row (an uint64) of a 2-D array into the cache.
prefetch: Any = intrinsic(_prefetch)
