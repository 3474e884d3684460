// What the operators hand to the kernels of attention along one axis. Shape letters as in the
// reference: A x B lines, N heads, L positions, K key and V value channels a head, D = 2L - 1
// offsets.
#pragma once

#include <cstdint>

#include "local_arguments.h"

namespace axial_d2 {

struct Shape {
  int64_t outer, inner;  // A, B
  int64_t heads, length, key_channels, value_channels;
  int64_t reach;  // keys on either side of a query: (span - 1) / 2, or L - 1 for the whole axis

  int64_t groups() const { return outer * inner * heads; }
  int64_t offsets() const { return 2 * length - 1; }
};

// A tensor [A, B, N, L, C] of any strides.
template <class T>
struct Strided {
  T* data;
  int64_t outer, inner, head, position, channel;

  // The first element of a group, which is a line's head.
  T* of_group(const Shape& shape, int64_t group) const {
    const int64_t line = group / shape.heads;
    return data + line / shape.inner * outer + line % shape.inner * inner +
           group % shape.heads * head;
  }
};

// The three position tables, [D, C] each: row j - i + L - 1 for query i and key j.
template <class T>
struct Tables {
  T *query, *key, *value;
};

template <class T>
struct ForwardArguments {
  Shape shape;
  Strided<const T> query, key, value;
  Tables<const T> tables;
  const T* scale;           // [3, N]
  const T* position_scale;  // [N, V], or null: times position and added to content
  Strided<T> content, position;  // position is not written if there is a position scale
  T* log_sum;  // [A, B, N, L], or null
};

template <class T>
struct BackwardArguments {
  Shape shape;
  Strided<const T> query, key, value;
  Tables<const T> tables;
  const T* scale;
  const T* log_sum;
  Strided<const T> grad_content, grad_position;
  Strided<T> grad_query, grad_key, grad_value;
};

// Of one task; the operators add the tasks' sums, always in the same order.
template <class T>
struct BackwardSums {
  Tables<T> tables;
  double* scale;  // [3, N]
};

template <class T>
struct MomentsArguments {
  Shape shape;
  Strided<const T> query, key;
  Tables<const T> tables;
};

// The gradient of term t at a pair with logit x is offset[t, n] + slope[t, n] * x.
template <class T>
struct MomentsBackwardArguments {
  MomentsArguments<T> forward;
  const T *offset, *slope;  // [3, N]
  Strided<T> grad_query, grad_key;
};

// One instruction set's kernels; each does the groups (lines' heads) from begin to end.
template <class T>
struct Kernels {
  int64_t lanes;  // groups that are computed together
  void (*forward)(const ForwardArguments<T>&, int64_t begin, int64_t end);
  void (*backward)(const BackwardArguments<T>&, const BackwardSums<T>&, int64_t begin, int64_t end);
  // sums: [2, 3, N], of each term and of its square
  void (*moments)(const MomentsArguments<T>&, double* sums, int64_t begin, int64_t end);
  void (*moments_backward)(
      const MomentsBackwardArguments<T>&, const Tables<T>&, int64_t begin, int64_t end);
  LocalKernels<T> local;
};

}  // namespace axial_d2
