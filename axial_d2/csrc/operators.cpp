// The operators of attention along one axis: they prepare tables, divide lines among threads and
// call the kernels of the best instruction set that the processor has.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "arguments.h"
#include "instructions.h"
#include "tensors.h"

namespace axial_d2 {

namespace {

using at::Tensor;

template <class T>
Strided<T> strided(const Tensor& tensor) {
  return {
      static_cast<T*>(tensor.data_ptr()),
      tensor.stride(0),
      tensor.stride(1),
      tensor.stride(2),
      tensor.stride(3),
      tensor.stride(4)};
}

// The wrapper in Python passes what it documents; a wrong size would be a write anywhere.
void check_features(const Tensor& features, const Tensor& query, int64_t channels) {
  TORCH_CHECK(
      features.dim() == 5 && features.sizes().slice(0, 4) == query.sizes().slice(0, 4) &&
          features.size(4) == channels && features.scalar_type() == query.scalar_type(),
      "expected [A, B, N, L, ", channels, "] ", query.scalar_type(), " like the query, ",
      query.sizes(), "; got ", features.sizes(), " ", features.scalar_type());
}

void check_window(const Tensor& window, const Tensor& query, int64_t channels) {
  TORCH_CHECK(
      window.dim() == 2 && window.size(0) == 2 * query.size(3) - 1 && window.size(1) == channels &&
          window.scalar_type() == query.scalar_type(),
      "expected a window [", 2 * query.size(3) - 1, ", ", channels, "] ", query.scalar_type(),
      "; got ", window.sizes(), " ", window.scalar_type());
}

void check_heads(const Tensor& numbers, const Tensor& query) {
  TORCH_CHECK(
      numbers.dim() == 2 && numbers.size(0) == 3 && numbers.size(1) == query.size(2) &&
          numbers.scalar_type() == query.scalar_type(),
      "expected [3, ", query.size(2), "] ", query.scalar_type(), "; got ", numbers.sizes(), " ",
      numbers.scalar_type());
}

Shape shape_of(
    const Tensor& query, const Tensor& key, const Tensor& query_window, const Tensor& key_window,
    int64_t span) {
  TORCH_CHECK(query.dim() == 5, "expected a query [A, B, N, L, K]; got ", query.sizes());
  const int64_t length = query.size(3), channels = query.size(4);
  TORCH_CHECK(length > 0, "expected at least one position; got ", query.sizes());
  check_features(key, query, channels);
  check_window(query_window, query, channels);
  check_window(key_window, query, channels);
  const int64_t reach = span ? std::min((span - 1) / 2, length - 1) : length - 1;
  return {query.size(0), query.size(1), query.size(2), length, channels, 0, reach};
}

Shape shape_of(
    const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& query_window,
    const Tensor& key_window, const Tensor& value_window, const Tensor& scale, int64_t span) {
  Shape shape = shape_of(query, key, query_window, key_window, span);
  shape.value_channels = value.size(-1);
  check_features(value, query, shape.value_channels);
  check_window(value_window, query, shape.value_channels);
  check_heads(scale, query);
  return shape;
}

// The tables of a call, with rows as the kernels read them.
template <class T>
struct Windows {
  Tensor query, key, value;

  Windows(const Tensor& query_window, const Tensor& key_window, const Tensor& value_window)
      : query(query_window.contiguous()),
        key(key_window.contiguous()),
        value(value_window.contiguous()) {}

  Tables<const T> view() const {
    return {query.const_data_ptr<T>(), key.const_data_ptr<T>(), value.const_data_ptr<T>()};
  }
};

// Sums of the tables' gradients, one for each task.
template <class T>
class WindowSums {
 public:
  WindowSums(int64_t tasks, const Tensor& query, const Tensor& key, const Tensor& value)
      : query_(zeros(tasks, query)), key_(zeros(tasks, key)), value_(zeros(tasks, value)) {}

  Tables<T> of_task(int64_t task) const {
    return {data(query_, task), data(key_, task), data(value_, task)};
  }
  Tensor query() const { return query_.sum(0); }
  Tensor key() const { return key_.sum(0); }
  Tensor value() const { return value_.sum(0); }

 private:
  static Tensor zeros(int64_t tasks, const Tensor& window) {
    return at::zeros({tasks, window.size(0), window.size(1)}, window.options());
  }
  static T* data(const Tensor& sums, int64_t task) {
    return sums.mutable_data_ptr<T>() + task * sums.size(1) * sums.size(2);
  }

  Tensor query_, key_, value_;
};

// Divides the groups, by whole vectors of them, among at most as many tasks as there are threads.
class Division {
 public:
  Division(const Shape& shape, int64_t lanes)
      : groups_(shape.groups()),
        lanes_(lanes),
        vectors_((groups_ + lanes - 1) / lanes),
        tasks(std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), vectors_))) {}

  // Calls work(task, begin, end) for all tasks, in parallel.
  template <class Work>
  void run(const Work& work) const {
    at::parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task)
        work(
            task, vectors_ * task / tasks * lanes_,
            std::min(groups_, vectors_ * (task + 1) / tasks * lanes_));
    });
  }

 private:
  int64_t groups_, lanes_, vectors_;

 public:
  const int64_t tasks;
};

template <class T>
std::tuple<Tensor, Tensor, Tensor> typed_forward(
    const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& query_window,
    const Tensor& key_window, const Tensor& value_window, const Tensor& scale,
    const std::optional<Tensor>& position_scale, int64_t span, bool with_log_sum) {
  const Shape shape =
      shape_of(query, key, value, query_window, key_window, value_window, scale, span);
  const Windows<T> tables(query_window, key_window, value_window);
  const Tensor scales = scale.contiguous();
  const Tensor position_scales = position_scale ? position_scale->contiguous() : Tensor();
  TORCH_CHECK(
      !position_scale ||
          (position_scales.numel() == shape.heads * shape.value_channels &&
           position_scales.scalar_type() == query.scalar_type()),
      "expected a position scale [", shape.heads, ", ", shape.value_channels, "]");
  Tensor content = like(value);
  Tensor position = position_scale ? at::empty({0, 0, 0, 0, 0}, value.options()) : like(value);
  Tensor log_sum = at::empty(
      {with_log_sum ? shape.outer : 0, shape.inner, shape.heads, shape.length}, query.options());
  const ForwardArguments<T> arguments{
      shape,
      strided<const T>(query),
      strided<const T>(key),
      strided<const T>(value),
      tables.view(),
      scales.const_data_ptr<T>(),
      position_scale ? position_scales.const_data_ptr<T>() : nullptr,
      strided<T>(content),
      strided<T>(position),
      with_log_sum ? log_sum.mutable_data_ptr<T>() : nullptr};
  const Kernels<T> chosen = kernels<T>();
  Division(shape, chosen.lanes).run([&](int64_t, int64_t begin, int64_t end) {
    chosen.forward(arguments, begin, end);
  });
  return {content, position, log_sum};
}

template <class T>
std::vector<Tensor> typed_backward(
    const Tensor& grad_content, const Tensor& grad_position, const Tensor& query,
    const Tensor& key, const Tensor& value, const Tensor& query_window, const Tensor& key_window,
    const Tensor& value_window, const Tensor& scale, const Tensor& log_sum, int64_t span) {
  const Shape shape =
      shape_of(query, key, value, query_window, key_window, value_window, scale, span);
  check_features(grad_content, query, shape.value_channels);
  check_features(grad_position, query, shape.value_channels);
  const Windows<T> tables(query_window, key_window, value_window);
  const Tensor scales = scale.contiguous();
  Tensor grad_query = like(query), grad_key = like(key), grad_value = like(value);
  const BackwardArguments<T> arguments{
      shape,
      strided<const T>(query),
      strided<const T>(key),
      strided<const T>(value),
      tables.view(),
      scales.const_data_ptr<T>(),
      log_sum.const_data_ptr<T>(),
      strided<const T>(grad_content),
      strided<const T>(grad_position),
      strided<T>(grad_query),
      strided<T>(grad_key),
      strided<T>(grad_value)};
  const Kernels<T> chosen = kernels<T>();
  const Division division(shape, chosen.lanes);
  const WindowSums<T> sums(division.tasks, query_window, key_window, value_window);
  Tensor scale_sums = at::zeros({division.tasks, 3, shape.heads}, scale.options().dtype(at::kDouble));
  division.run([&](int64_t task, int64_t begin, int64_t end) {
    double* scale_sum = scale_sums.mutable_data_ptr<double>() + task * 3 * shape.heads;
    chosen.backward(arguments, {sums.of_task(task), scale_sum}, begin, end);
  });
  return {grad_query,  grad_key,     grad_value, sums.query(),
          sums.key(),  sums.value(), scale_sums.sum(0).to(scale.scalar_type())};
}

template <class T>
Tensor typed_moments(
    const Tensor& query, const Tensor& key, const Tensor& query_window, const Tensor& key_window,
    int64_t span) {
  const Shape shape = shape_of(query, key, query_window, key_window, span);
  const Windows<T> tables(query_window, key_window, query_window);
  const MomentsArguments<T> arguments{
      shape, strided<const T>(query), strided<const T>(key), tables.view()};
  const Kernels<T> chosen = kernels<T>();
  const Division division(shape, chosen.lanes);
  Tensor sums = at::zeros({division.tasks, 2, 3, shape.heads}, query.options().dtype(at::kDouble));
  division.run([&](int64_t task, int64_t begin, int64_t end) {
    double* sum = sums.mutable_data_ptr<double>() + task * 6 * shape.heads;
    chosen.moments(arguments, sum, begin, end);
  });
  return sums.sum(0);
}

template <class T>
std::vector<Tensor> typed_moments_backward(
    const Tensor& offset, const Tensor& slope, const Tensor& query, const Tensor& key,
    const Tensor& query_window, const Tensor& key_window, int64_t span) {
  const Shape shape = shape_of(query, key, query_window, key_window, span);
  const Windows<T> tables(query_window, key_window, query_window);
  check_heads(offset, query);
  check_heads(slope, query);
  const Tensor offsets = offset.contiguous(), slopes = slope.contiguous();
  Tensor grad_query = like(query), grad_key = like(key);
  const MomentsBackwardArguments<T> arguments{
      {shape, strided<const T>(query), strided<const T>(key), tables.view()},
      offsets.const_data_ptr<T>(),
      slopes.const_data_ptr<T>(),
      strided<T>(grad_query),
      strided<T>(grad_key)};
  const Kernels<T> chosen = kernels<T>();
  const Division division(shape, chosen.lanes);
  const WindowSums<T> sums(division.tasks, query_window, key_window, query_window.narrow(1, 0, 0));
  division.run([&](int64_t task, int64_t begin, int64_t end) {
    chosen.moments_backward(arguments, sums.of_task(task), begin, end);
  });
  return {grad_query, grad_key, sums.query(), sums.key()};
}

std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& query_window,
    const Tensor& key_window, const Tensor& value_window, const Tensor& scale,
    const std::optional<Tensor>& position_scale, int64_t span, bool with_log_sum) {
  return AXIAL_D2_TYPED(
      forward, query, key, value, query_window, key_window, value_window, scale,
      position_scale, span, with_log_sum);
}

std::vector<Tensor> backward(
    const Tensor& grad_content, const Tensor& grad_position, const Tensor& query,
    const Tensor& key, const Tensor& value, const Tensor& query_window, const Tensor& key_window,
    const Tensor& value_window, const Tensor& scale, const Tensor& log_sum, int64_t span) {
  return AXIAL_D2_TYPED(
      backward, grad_content, grad_position, query, key, value, query_window, key_window,
      value_window, scale, log_sum, span);
}

Tensor moments(
    const Tensor& query, const Tensor& key, const Tensor& query_window, const Tensor& key_window,
    int64_t span) {
  return AXIAL_D2_TYPED(moments, query, key, query_window, key_window, span);
}

std::vector<Tensor> moments_backward(
    const Tensor& offset, const Tensor& slope, const Tensor& query, const Tensor& key,
    const Tensor& query_window, const Tensor& key_window, int64_t span) {
  return AXIAL_D2_TYPED(
      moments_backward, offset, slope, query, key, query_window, key_window, span);
}

}  // namespace
}  // namespace axial_d2

TORCH_LIBRARY(axial_d2_cpu, library) {
  library.def(
      "forward(Tensor query, Tensor key, Tensor value, Tensor query_window, Tensor key_window, "
      "Tensor value_window, Tensor scale, Tensor? position_scale, int span, bool with_log_sum) "
      "-> (Tensor, Tensor, Tensor)");
  library.def(
      "backward(Tensor grad_content, Tensor grad_position, Tensor query, Tensor key, Tensor "
      "value, Tensor query_window, Tensor key_window, Tensor value_window, Tensor scale, Tensor "
      "log_sum, int span) -> Tensor[]");
  library.def(
      "moments(Tensor query, Tensor key, Tensor query_window, Tensor key_window, int span) -> "
      "Tensor");
  library.def(
      "moments_backward(Tensor offset, Tensor slope, Tensor query, Tensor key, Tensor "
      "query_window, Tensor key_window, int span) -> Tensor[]");
  library.def("instruction_sets() -> str[]", axial_d2::instruction_sets);
  library.def("use_instructions(str name) -> ()", axial_d2::use_instructions);
}

TORCH_LIBRARY_IMPL(axial_d2_cpu, CPU, library) {
  library.impl("forward", axial_d2::forward);
  library.impl("backward", axial_d2::backward);
  library.impl("moments", axial_d2::moments);
  library.impl("moments_backward", axial_d2::moments_backward);
}
