"""Repairs to Triton's interpreter, without which it cannot stand in for a GPU. Imported by every kernel module.

* NumPy 2.4 no longer turns an array of one element into a Python integer, which the interpreter of Triton 3.4
  to 3.6 relies on whenever a loop bound is a run-time value (triton-lang/triton issue 9171).
* It truncates float32 to bfloat16 and to e4m3 where GPUs round, and multiplies the bit patterns of bfloat16 in
  `tl.dot`.

Nothing here runs unless TRITON_INTERPRET=1 is set.
"""

from typing import Any

import torch
import triton
import triton.language as tl

_ROUNDED = {
    tl.bfloat16: (torch.bfloat16, torch.uint16),
    tl.float8e4nv: (torch.float8_e4m3fn, torch.uint8),
}


def _repair_scalars(interpreter: Any) -> None:
    original = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patched


def _repair_bfloat16(interpreter: Any) -> None:
    original_convert = interpreter._convert_float
    original_dot = interpreter.InterpreterBuilder.create_dot

    def convert(values: Any, source: Any, target: Any, rounding_mode: Any) -> Any:
        if source == tl.float32 and target in _ROUNDED and values.size:
            dtype, bits = _ROUNDED[target]
            return torch.from_numpy(values.copy()).to(dtype).view(bits).numpy()
        return original_convert(values, source, target, rounding_mode)

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        values = torch.from_numpy(handle.data.copy()).view(torch.bfloat16).float().numpy()
        return interpreter.TensorHandle(values, tl.float32)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return original_dot(self, widened(a), widened(b), *rest)

    interpreter._convert_float = convert
    interpreter.InterpreterBuilder.create_dot = dot


if triton.knobs.runtime.interpret:
    from triton.runtime import interpreter as _triton_interpreter

    _repair_scalars(_triton_interpreter)
    _repair_bfloat16(_triton_interpreter)
