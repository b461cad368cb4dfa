"""Make Triton's interpreter round to bfloat16 as a GPU does, and make it several times as fast.

The interpreter cuts off the low bits. That doubles the error of every rounding and biases it towards zero, so no
comparison with a tolerance for rounded numbers could pass. `install` replaces the two conversions between float32 and
bfloat16, and leaves the others. It also leaves out what takes most of the time: preparing the language again for each
function that a kernel calls, checking for integer overflow, and describing the same shapes again for each tensor.
"""

import dataclasses
import math
import types

import numpy as np


def install() -> None:
    """Change Triton's interpreter in this process."""
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounded(data, source, target, rounding_mode):
        if (source, target) == (tl.float32, tl.bfloat16):
            return to_bfloat16(data)
        if (source, target) == (tl.bfloat16, tl.float32):
            return data.astype(np.uint32) << 16
        return convert(data, source, target, rounding_mode)

    prepare = interpreter._patch_lang
    language = types.SimpleNamespace(__globals__={"tl": tl, "core": tl.core})

    def call(function, *args, **kwargs):
        return function.rewrite()(*args, **kwargs)

    interpreter._convert_float = rounded
    interpreter._patch_lang = lambda kernel: prepare(language)  # all of it, once a launch
    interpreter.InterpretedFunction.__call__ = call
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    _describe_shapes_once(tl.core)


def _describe_shapes_once(core) -> None:
    """Have block types that are equal, and tensors of one type, share their descriptions."""
    from triton.language.semantic import TritonSemantic

    described: dict[tuple, dict] = {}
    describe, broadcast = core.block_type.__init__, TritonSemantic.broadcast_impl_value

    def block(self, element_ty, shape):
        sides = tuple(getattr(side, "value", side) for side in getattr(shape, "values", shape))
        known = described.get((element_ty.name, sides))
        if known is None:
            describe(self, element_ty, shape)
            known = described[element_ty.name, sides] = self.__dict__
        self.__dict__ = known

    def tensor(self, handle, type):
        parts = type.__dict__.get("parts of its tensors")
        if parts is None:
            shape = type.shape if type.is_block() else ()
            sides = core.tuple([core.constexpr(side) for side in shape])
            parts = sides, core.constexpr(math.prod(shape)), type.scalar
            type.__dict__["parts of its tensors"] = parts
        self.handle, self.type = handle, type
        self.shape, self.numel, self.dtype = parts

    def broadcast_unless_equal(self, lhs, rhs):
        if lhs.type.is_block() and rhs.type.is_block() and lhs.type.shape.values == rhs.type.shape.values:
            return lhs, rhs
        return broadcast(self, lhs, rhs)

    core.block_type.__init__, core.tensor.__init__ = block, tensor
    TritonSemantic.broadcast_impl_value = broadcast_unless_equal


def to_bfloat16(data: np.ndarray) -> np.ndarray:
    """Return the bits, uint16, of float32 numbers rounded to the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(data).view(np.uint32).reshape(np.shape(data))
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(data), np.uint16(0x7FC0), rounded)
