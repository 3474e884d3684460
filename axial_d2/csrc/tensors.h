// What both files of operators need of tensors.
#pragma once

#include <ATen/ops/empty_strided.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace axial_d2 {

// A dense tensor of the same shape whose dimensions lie in memory in the same order.
inline at::Tensor like(const at::Tensor& tensor) {
  std::vector<int64_t> order(tensor.dim()), strides(tensor.dim());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return tensor.stride(a) > tensor.stride(b);
  });
  int64_t stride = 1;
  for (auto dim = order.rbegin(); dim != order.rend(); ++dim) {
    strides[*dim] = stride;
    stride *= std::max<int64_t>(1, tensor.size(*dim));  // as PyTorch counts
  }
  return at::empty_strided(tensor.sizes(), strides, tensor.options());
}

// Calls the typed function for float32 or float64, as the query is.
#define AXIAL_D2_TYPED(function, ...)                                     \
  (query.scalar_type() == at::kDouble ? typed_##function<double>(__VA_ARGS__) \
                                      : typed_##function<float>(__VA_ARGS__))

}  // namespace axial_d2
