"""Float32 matrix products of compiled updates on bfloat16 units, as exact as torch's own (csrc/product.hpp).

Each number is three bfloat16 numbers, each product six of theirs: XLA calls it bf16_bf16_f32_x6.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from rlcli import _native

SMALLEST = 64  # a product with a shorter side is not faster than torch's

# How a compiled program calls the extension: torch copies this, with `extern` before it, into its source.
SHIM = """
void rl_multiply(const float *, const int64_t *, const int64_t *, const float *, const int64_t *,
                 const int64_t *, float *);
static AOTITorchError aoti_torch_cpu_product(AtenTensorHandle left, AtenTensorHandle right,
                                             AtenTensorHandle *out) {
  int64_t *sizes[2], *strides[2];
  void *data[3];
  AtenTensorHandle tensors[2] = {left, right};
  for (int i = 0; i < 2; ++i) {
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(tensors[i], &sizes[i]));
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(tensors[i], &strides[i]));
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(tensors[i], &data[i]));
  }
  const int64_t shape[2] = {sizes[0][0], sizes[1][1]}, rows[2] = {shape[1], 1};
  AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      2, shape, rows, aoti_torch_dtype_float32(), aoti_torch_device_type_cpu(), 0, out));
  AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(*out, &data[2]));
  rl_multiply((float *)data[0], sizes[0], strides[0], (float *)data[1], sizes[1], strides[1],
              (float *)data[2]);
  return AOTI_TORCH_SUCCESS;
}
"""


@torch.library.custom_op("rl::product", mutates_args=(), device_types="cpu")
def product(left: Tensor, right: Tensor) -> Tensor:
    """`left [m, k] @ right [k, n]`, float32, one stride of each 1. `RuntimeError` without such units."""
    return torch.from_numpy(_native.multiply(left.detach().numpy(), right.detach().numpy()))


@product.register_fake
def _(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


def is_wide(left: Tensor, right: Tensor) -> bool:
    """Whether `product` is faster than torch's for these, where it can be had."""
    return min(*left.shape, right.shape[1]) >= SMALLEST and left.dtype == right.dtype == torch.float32


def mm(left: Tensor, right: Tensor) -> Any:
    """`aten.mm` in terms of `product` where that is faster, for `make_fx`."""
    return product(left, right) if is_wide(left, right) else NotImplemented


def compiler_options() -> dict[str, Any]:
    """What torch's compiler needs to call `product`; lets programs that are loaded from now on find it."""
    ctypes.CDLL(_native.__file__, mode=ctypes.RTLD_GLOBAL)
    return {"aot_inductor.custom_ops_to_c_shims": {torch.ops.rl.product.default: [SHIM]}}
