// The operators of attention in a window: they divide groups and rows among threads and call the
// kernels of the best instruction set that the processor has.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "instructions.h"
#include "local_arguments.h"
#include "tensors.h"

namespace axial_d2 {
namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

// Numbers that a core's cache holds beside the rest.
constexpr int64_t kCached = 1 << 17;

template <class T>
LocalStrided<T> strided(const Tensor& tensor) {
  return {
      static_cast<T*>(tensor.data_ptr()),
      tensor.stride(0),
      tensor.stride(1),
      tensor.stride(2),
      tensor.stride(3),
      tensor.stride(4)};
}

template <class T>
LocalStrided<T> strided_or_absent(const Optional& tensor) {
  return tensor ? strided<T>(*tensor) : LocalStrided<T>{};
}

// The wrapper in Python passes what it documents; a wrong size would be a read anywhere.
void check_features(const Tensor& features, const Tensor& query, int64_t channels) {
  TORCH_CHECK(
      features.dim() == 5 && features.sizes().slice(0, 4) == query.sizes().slice(0, 4) &&
          features.size(4) == channels && features.scalar_type() == query.scalar_type(),
      "expected [B, N, H, W, ", channels, "] ", query.scalar_type(), " like the query, ",
      query.sizes(), "; got ", features.sizes(), " ", features.scalar_type());
}

void check_matrix(const Tensor& matrix, const Tensor& query, int64_t rows, int64_t columns) {
  TORCH_CHECK(
      matrix.dim() == 2 && matrix.size(0) == rows && matrix.size(1) == columns &&
          matrix.scalar_type() == query.scalar_type(),
      "expected [", rows, ", ", columns, "] ", query.scalar_type(), "; got ", matrix.sizes(), " ",
      matrix.scalar_type());
}

LocalShape shape_of(
    const Tensor& query, const Tensor& key, int64_t value_channels, int64_t row_reach,
    int64_t column_reach) {
  TORCH_CHECK(query.dim() == 5, "expected a query [B, N, H, W, K]; got ", query.sizes());
  const LocalShape shape{
      query.size(0), query.size(1),  query.size(2), query.size(3),
      query.size(4), value_channels, row_reach,     column_reach};
  TORCH_CHECK(
      0 <= row_reach && row_reach < shape.height && 0 <= column_reach &&
          column_reach < shape.width,
      "a reach of ", row_reach, " rows and ", column_reach, " columns is beyond ", query.sizes());
  check_features(key, query, shape.key_channels);
  return shape;
}

// Tables of a call, contiguous; they outlive the arguments that point to them.
struct TableTensors {
  Optional query, key, value;

  TableTensors(
      const Tensor& like, const LocalShape& shape, const Optional& of_query,
      const Optional& of_key, const Optional& of_value)
      : query(checked(like, shape, of_query, shape.key_channels)),
        key(checked(like, shape, of_key, shape.key_channels)),
        value(checked(like, shape, of_value, shape.value_channels)) {}

  template <class T>
  LocalTables<const T> view() const {
    return {data<T>(query), data<T>(key), data<T>(value)};
  }

 private:
  static Optional checked(
      const Tensor& like, const LocalShape& shape, const Optional& table, int64_t channels) {
    if (!table) return {};
    check_matrix(*table, like, shape.offsets(), channels);
    return table->contiguous();
  }
  template <class T>
  static const T* data(const Optional& table) {
    return table ? table->const_data_ptr<T>() : nullptr;
  }
};

// Sums of the tables' gradients, one for each task.
class TableSums {
 public:
  TableSums(int64_t tasks, const TableTensors& tables)
      : query_(zeros(tasks, tables.query)),
        key_(zeros(tasks, tables.key)),
        value_(zeros(tasks, tables.value)) {}

  template <class T>
  LocalTables<T> of_task(int64_t task) const {
    return {data<T>(query_, task), data<T>(key_, task), data<T>(value_, task)};
  }
  Tensor query(const Tensor& like) const { return total(query_, like); }
  Tensor key(const Tensor& like) const { return total(key_, like); }
  Tensor value(const Tensor& like) const { return total(value_, like); }

 private:
  static Optional zeros(int64_t tasks, const Optional& table) {
    if (!table) return {};
    return at::zeros({tasks, table->size(0), table->size(1)}, table->options());
  }
  template <class T>
  static T* data(const Optional& sums, int64_t task) {
    return sums ? sums->mutable_data_ptr<T>() + task * sums->size(1) * sums->size(2) : nullptr;
  }
  static Tensor total(const Optional& sums, const Tensor& like) {
    return sums ? sums->sum(0) : at::empty({0}, like.options());
  }

  Optional query_, key_, value_;
};

// All rows of all groups in bands, divided among at most as many tasks as there are threads.
class Division {
 public:
  // `rows` of a band at most; `whole` groups stay with one task.
  Division(const LocalShape& shape, int64_t rows, bool whole) : rows(rows) {
    for (int64_t group = 0; group < shape.groups(); ++group)
      for (int64_t row = 0; row < shape.height; row += rows)
        bands_.push_back({group, row, std::min(shape.height, row + rows)});
    unit_ = whole ? (shape.height + rows - 1) / rows : 1;
    units_ = static_cast<int64_t>(bands_.size()) / unit_;
    tasks = std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), units_));
  }

  // Calls work(task, begin, end) for all tasks, in parallel.
  template <class Work>
  void run(const Work& work) const {
    at::parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task)
        work(task, bands_.data() + at(task), bands_.data() + at(task + 1));
    });
  }

  int64_t rows, tasks;

 private:
  int64_t at(int64_t task) const { return units_ * task / tasks * unit_; }

  std::vector<Band> bands_;
  int64_t unit_, units_;
};

// Bands whose planes stay in cache, and of which every thread gets one.
Division shared_rows(const LocalShape& shape) {
  const int64_t channels = 2 * (shape.key_channels + shape.value_channels);
  const int64_t cached = kCached / (shape.pitch() * std::max<int64_t>(1, channels));
  const int64_t threads = at::get_num_threads(), groups = std::max<int64_t>(1, shape.groups());
  const int64_t parts = (threads + groups - 1) / groups;
  const int64_t share = (shape.height + parts - 1) / parts;
  // Each band reads the rows around it again.
  const int64_t rows = std::max(std::min(cached, share), 2 * shape.row_reach + 1);
  return Division(shape, std::min(rows, shape.height), false);
}

// Bands whose pairs stay in cache; what a band gives to keys of another stays with one thread.
Division whole_groups(const LocalShape& shape) {
  const int64_t cached = kCached / (shape.pitch() * shape.offsets());
  const int64_t rows = std::max(cached, 4 * shape.row_reach + 1);
  return Division(shape, std::min(rows, shape.height), true);
}

int64_t value_channels_of(const Optional& value, const Optional& value_table) {
  return value ? value->size(-1) : value_table ? value_table->size(-1) : 0;
}

Tensor nothing(const Tensor& like) { return at::empty({0}, like.options()); }

template <class T>
std::tuple<Tensor, Tensor, Tensor> typed_forward(
    const Tensor& query, const Tensor& key, const Optional& value, const Optional& query_table,
    const Optional& key_table, const Optional& value_table, const Tensor& scale,
    int64_t row_reach, int64_t column_reach, bool query_key, bool with_log_sum) {
  const LocalShape shape =
      shape_of(query, key, value_channels_of(value, value_table), row_reach, column_reach);
  if (value) check_features(*value, query, shape.value_channels);
  check_matrix(scale, query, 3, shape.heads);
  const TableTensors tables(query, shape, query_table, key_table, value_table);
  const Tensor scales = scale.contiguous();
  Tensor content = value ? like(*value) : nothing(query);
  Tensor position = nothing(query);
  if (value_table)
    position = value ? like(*value)
                     : at::empty(
                           {shape.images, shape.heads, shape.height, shape.width,
                            shape.value_channels},
                           query.options());
  Tensor log_sum = at::empty(
      {with_log_sum ? shape.images : 0, shape.heads, shape.height, shape.width},
      query.options());
  const LocalForwardArguments<T> arguments{
      {shape, strided<const T>(query), strided<const T>(key), query_key, tables.view<T>(),
       scales.const_data_ptr<T>()},
      strided_or_absent<const T>(value),
      value ? strided<T>(content) : LocalStrided<T>{},
      value_table ? strided<T>(position) : LocalStrided<T>{},
      with_log_sum ? log_sum.mutable_data_ptr<T>() : nullptr};
  const auto chosen = kernels<T>().local;
  const Division division = shared_rows(shape);
  division.run([&](int64_t, const Band* begin, const Band* end) {
    chosen.forward(arguments, division.rows, begin, end);
  });
  return {content, position, log_sum};
}

template <class T>
std::vector<Tensor> typed_backward(
    const Optional& grad_content, const Optional& grad_position, const Tensor& query,
    const Tensor& key, const Optional& value, const Optional& query_table,
    const Optional& key_table, const Optional& value_table, const Tensor& scale,
    const Tensor& log_sum, int64_t row_reach, int64_t column_reach, bool query_key) {
  const LocalShape shape =
      shape_of(query, key, value_channels_of(value, value_table), row_reach, column_reach);
  if (value) check_features(*value, query, shape.value_channels);
  check_matrix(scale, query, 3, shape.heads);
  TORCH_CHECK(
      grad_content.has_value() == value.has_value() &&
          grad_position.has_value() == value_table.has_value(),
      "expected the gradients of what there is");
  for (const Optional& gradient : {grad_content, grad_position})
    if (gradient) check_features(*gradient, query, shape.value_channels);
  TORCH_CHECK(
      log_sum.sizes() == query.sizes().slice(0, 4) && log_sum.is_contiguous() &&
          log_sum.scalar_type() == query.scalar_type(),
      "expected the logarithms of the forward");
  const TableTensors tables(query, shape, query_table, key_table, value_table);
  const Tensor scales = scale.contiguous();
  Tensor grad_query = like(query), grad_key = like(key).zero_();
  Tensor grad_value = value ? like(*value).zero_() : nothing(query);
  const LocalBackwardArguments<T> arguments{
      {shape, strided<const T>(query), strided<const T>(key), query_key, tables.view<T>(),
       scales.const_data_ptr<T>()},
      strided_or_absent<const T>(value),
      log_sum.const_data_ptr<T>(),
      strided_or_absent<const T>(grad_content),
      strided_or_absent<const T>(grad_position),
      strided<T>(grad_query),
      strided<T>(grad_key),
      value ? strided<T>(grad_value) : LocalStrided<T>{}};
  const auto chosen = kernels<T>().local;
  const Division division = whole_groups(shape);
  const TableSums sums(division.tasks, tables);
  Tensor scale_sums =
      at::zeros({division.tasks, 3, shape.heads}, scale.options().dtype(at::kDouble));
  division.run([&](int64_t task, const Band* begin, const Band* end) {
    double* scale_sum = scale_sums.mutable_data_ptr<double>() + task * 3 * shape.heads;
    chosen.backward(
        arguments, {sums.of_task<T>(task), scale_sum}, division.rows, begin, end);
  });
  return {
      grad_query,        grad_key,          grad_value, sums.query(query), sums.key(query),
      sums.value(query), scale_sums.sum(0).to(scale.scalar_type())};
}

template <class T>
Tensor typed_moments(
    const Tensor& query, const Tensor& key, const Optional& query_table,
    const Optional& key_table, int64_t row_reach, int64_t column_reach, bool query_key) {
  const LocalShape shape = shape_of(query, key, 0, row_reach, column_reach);
  const TableTensors tables(query, shape, query_table, key_table, {});
  const Tensor scales = at::ones({3, shape.heads}, query.options());
  const LocalLogitsArguments<T> arguments{
      shape,     strided<const T>(query), strided<const T>(key),
      query_key, tables.view<T>(),        scales.const_data_ptr<T>()};
  const auto chosen = kernels<T>().local;
  const Division division = shared_rows(shape);
  Tensor sums = at::zeros({division.tasks, 2, 3, shape.heads}, query.options().dtype(at::kDouble));
  division.run([&](int64_t task, const Band* begin, const Band* end) {
    double* sum = sums.mutable_data_ptr<double>() + task * 6 * shape.heads;
    chosen.moments(arguments, sum, division.rows, begin, end);
  });
  return sums.sum(0);
}

template <class T>
std::vector<Tensor> typed_moments_backward(
    const Tensor& offset, const Tensor& slope, const Tensor& query, const Tensor& key,
    const Optional& query_table, const Optional& key_table, int64_t row_reach,
    int64_t column_reach, bool query_key) {
  const LocalShape shape = shape_of(query, key, 0, row_reach, column_reach);
  check_matrix(offset, query, 3, shape.heads);
  check_matrix(slope, query, 3, shape.heads);
  const TableTensors tables(query, shape, query_table, key_table, {});
  const Tensor scales = at::ones({3, shape.heads}, query.options());
  const Tensor offsets = offset.contiguous(), slopes = slope.contiguous();
  Tensor grad_query = like(query), grad_key = like(key).zero_();
  const LocalMomentsBackwardArguments<T> arguments{
      {shape, strided<const T>(query), strided<const T>(key), query_key, tables.view<T>(),
       scales.const_data_ptr<T>()},
      offsets.const_data_ptr<T>(),
      slopes.const_data_ptr<T>(),
      strided<T>(grad_query),
      strided<T>(grad_key)};
  const auto chosen = kernels<T>().local;
  const Division division = whole_groups(shape);
  const TableSums sums(division.tasks, tables);
  division.run([&](int64_t task, const Band* begin, const Band* end) {
    chosen.moments_backward(arguments, sums.of_task<T>(task), division.rows, begin, end);
  });
  return {grad_query, grad_key, sums.query(query), sums.key(query)};
}

std::tuple<Tensor, Tensor, Tensor> local_forward(
    const Tensor& query, const Tensor& key, const Optional& value, const Optional& query_table,
    const Optional& key_table, const Optional& value_table, const Tensor& scale,
    int64_t row_reach, int64_t column_reach, bool query_key, bool with_log_sum) {
  return AXIAL_D2_TYPED(
      forward, query, key, value, query_table, key_table, value_table, scale, row_reach,
      column_reach, query_key, with_log_sum);
}

std::vector<Tensor> local_backward(
    const Optional& grad_content, const Optional& grad_position, const Tensor& query,
    const Tensor& key, const Optional& value, const Optional& query_table,
    const Optional& key_table, const Optional& value_table, const Tensor& scale,
    const Tensor& log_sum, int64_t row_reach, int64_t column_reach, bool query_key) {
  return AXIAL_D2_TYPED(
      backward, grad_content, grad_position, query, key, value, query_table, key_table,
      value_table, scale, log_sum, row_reach, column_reach, query_key);
}

Tensor local_moments(
    const Tensor& query, const Tensor& key, const Optional& query_table,
    const Optional& key_table, int64_t row_reach, int64_t column_reach, bool query_key) {
  return AXIAL_D2_TYPED(
      moments, query, key, query_table, key_table, row_reach, column_reach, query_key);
}

std::vector<Tensor> local_moments_backward(
    const Tensor& offset, const Tensor& slope, const Tensor& query, const Tensor& key,
    const Optional& query_table, const Optional& key_table, int64_t row_reach,
    int64_t column_reach, bool query_key) {
  return AXIAL_D2_TYPED(
      moments_backward, offset, slope, query, key, query_table, key_table, row_reach,
      column_reach, query_key);
}

}  // namespace
}  // namespace axial_d2

TORCH_LIBRARY_FRAGMENT(axial_d2_cpu, library) {
  library.def(
      "local_forward(Tensor query, Tensor key, Tensor? value, Tensor? query_table, Tensor? "
      "key_table, Tensor? value_table, Tensor scale, int row_reach, int column_reach, bool "
      "query_key, bool with_log_sum) -> (Tensor, Tensor, Tensor)");
  library.def(
      "local_backward(Tensor? grad_content, Tensor? grad_position, Tensor query, Tensor key, "
      "Tensor? value, Tensor? query_table, Tensor? key_table, Tensor? value_table, Tensor scale, "
      "Tensor log_sum, int row_reach, int column_reach, bool query_key) -> Tensor[]");
  library.def(
      "local_moments(Tensor query, Tensor key, Tensor? query_table, Tensor? key_table, int "
      "row_reach, int column_reach, bool query_key) -> Tensor");
  library.def(
      "local_moments_backward(Tensor offset, Tensor slope, Tensor query, Tensor key, Tensor? "
      "query_table, Tensor? key_table, int row_reach, int column_reach, bool query_key) -> "
      "Tensor[]");
}

TORCH_LIBRARY_IMPL(axial_d2_cpu, CPU, library) {
  library.impl("local_forward", axial_d2::local_forward);
  library.impl("local_backward", axial_d2::local_backward);
  library.impl("local_moments", axial_d2::local_moments);
  library.impl("local_moments_backward", axial_d2::local_moments_backward);
}
