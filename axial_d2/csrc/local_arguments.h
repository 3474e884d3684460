// What the operators of attention in a window of an image hand to its kernels. Shape letters: B
// images, N heads, H x W pixels, K key and V value channels a head, D offsets of a window.
#pragma once

#include <cstdint>

namespace axial_d2 {

struct LocalShape {
  int64_t images, heads, height, width, key_channels, value_channels;
  int64_t row_reach, column_reach;  // rows and columns of keys on either side of a query

  int64_t groups() const { return images * heads; }
  int64_t window_columns() const { return 2 * column_reach + 1; }
  int64_t offsets() const { return (2 * row_reach + 1) * window_columns(); }
  // Positions from one row to the next: a row's padding serves both sides.
  int64_t pitch() const { return width + column_reach; }
  // Positions from a query to its key at an offset, where keys begin row_reach rows and
  // column_reach columns before the queries.
  int64_t shift(int64_t offset) const {
    return offset / window_columns() * pitch() + offset % window_columns();
  }
  int64_t largest_shift() const { return 2 * (row_reach * pitch() + column_reach); }
};

// A tensor [B, N, H, W, C] of any strides; no data if it is absent.
template <class T>
struct LocalStrided {
  T* data;
  int64_t image, head, row, column, channel;

  // The first element of a group, which is an image's head.
  T* of_group(const LocalShape& shape, int64_t group) const {
    return data + group / shape.heads * image + group % shape.heads * head;
  }
};

// The position tables, [D, C] each, or null for a term that is absent.
template <class T>
struct LocalTables {
  T *query, *key, *value;
};

template <class T>
struct LocalLogitsArguments {
  LocalShape shape;
  LocalStrided<const T> query, key;
  bool query_key;  // whether that term exists
  LocalTables<const T> tables;
  const T* scale;  // [3, N]
};

template <class T>
struct LocalForwardArguments {
  LocalLogitsArguments<T> logits;
  LocalStrided<const T> value;
  LocalStrided<T> content, position;
  T* log_sum;  // [B, N, H, W], or null
};

template <class T>
struct LocalBackwardArguments {
  LocalLogitsArguments<T> logits;
  LocalStrided<const T> value;
  const T* log_sum;
  LocalStrided<const T> grad_content, grad_position;
  LocalStrided<T> grad_query;
  LocalStrided<T> grad_key, grad_value;  // zero at first: bands share rows of them
};

// Of one task; the operators add the tasks' sums, always in the same order.
template <class T>
struct LocalSums {
  LocalTables<T> tables;
  double* scale;  // [3, N], or null
};

// The gradient of term t at a pair with logit x is offset[t, n] + slope[t, n] * x.
template <class T>
struct LocalMomentsBackwardArguments {
  LocalLogitsArguments<T> logits;
  const T *offset, *slope;  // [3, N]
  LocalStrided<T> grad_query;
  LocalStrided<T> grad_key;  // zero at first
};

// Rows of queries of one group.
struct Band {
  int64_t group, first_row, last_row;

  int64_t rows() const { return last_row - first_row; }
};

// One instruction set's kernels. `rows` is how many a band may have.
template <class T>
struct LocalKernels {
  void (*forward)(
      const LocalForwardArguments<T>&, int64_t rows, const Band* begin, const Band* end);
  // Of the next two, all bands of a group belong to one call.
  void (*backward)(
      const LocalBackwardArguments<T>&, const LocalSums<T>&, int64_t rows, const Band* begin,
      const Band* end);
  void (*moments_backward)(
      const LocalMomentsBackwardArguments<T>&, const LocalTables<T>&, int64_t rows,
      const Band* begin, const Band* end);
  // sums: [2, 3, N], of each term and of its square
  void (*moments)(
      const LocalLogitsArguments<T>&, double* sums, int64_t rows, const Band* begin,
      const Band* end);
};

}  // namespace axial_d2
