// All kernels for one instruction set. A file defines AXIAL_D2_INSTRUCTIONS (a name) and
// AXIAL_D2_BYTES (the width of a vector), sets the compiler's target and includes this.

namespace axial_d2::AXIAL_D2_INSTRUCTIONS {

#include "vectors.h"

#include "groups.h"

#include "logits.h"

#include "forward.h"

#include "gradients.h"

#include "backward.h"

#include "moments.h"

#include "local_planes.h"

#include "local_logits.h"

#include "local_forward.h"

#include "local_gradients.h"

#include "local_backward.h"

#include "local_moments.h"

// Calls work(K, V) with what the compiler may know of the channels: those of Axial-ResNet's
// stages, else 0.
template <class Work>
void with_channels(const Shape& shape, const Work& work) {
  const auto is = [&](int64_t key, int64_t value) {
    return shape.key_channels == key && shape.value_channels == value;
  };
  const auto call = [&](auto key, auto value) { work(key, value); };
  if (is(4, 8)) return call(std::integral_constant<int, 4>(), std::integral_constant<int, 8>());
  if (is(8, 16)) return call(std::integral_constant<int, 8>(), std::integral_constant<int, 16>());
  if (is(16, 32)) return call(std::integral_constant<int, 16>(), std::integral_constant<int, 32>());
  call(std::integral_constant<int, 0>(), std::integral_constant<int, 0>());
}

template <class T, class Work>
void for_lanes(int64_t begin, int64_t end, const Work& work) {
  for (int64_t group = begin; group < end; group += kLanes<T>)
    work(Lanes<T>{group, std::min<int64_t>(kLanes<T>, end - group)});
}

template <class T>
void forward(const ForwardArguments<T>& arguments, int64_t begin, int64_t end) {
  with_channels(arguments.shape, [&](auto key, auto value) {
    Forward<T, key(), value()> kernel(arguments);
    for_lanes<T>(begin, end, [&](const Lanes<T>& lanes) { kernel.compute(lanes); });
  });
}

template <class T>
void backward(
    const BackwardArguments<T>& arguments, const BackwardSums<T>& sums, int64_t begin,
    int64_t end) {
  with_channels(arguments.shape, [&](auto key, auto value) {
    Backward<T, key(), value()> kernel(arguments);
    for_lanes<T>(begin, end, [&](const Lanes<T>& lanes) { kernel.compute(lanes, sums.scale); });
    kernel.add_tables(sums.tables);
  });
}

template <class T>
void moments(const MomentsArguments<T>& arguments, double* sums, int64_t begin, int64_t end) {
  with_channels(arguments.shape, [&](auto key, auto) {
    Moments<T, key()> kernel(arguments);
    for_lanes<T>(begin, end, [&](const Lanes<T>& lanes) { kernel.compute(lanes, sums); });
  });
}

template <class T>
void moments_backward(
    const MomentsBackwardArguments<T>& arguments, const Tables<T>& tables, int64_t begin,
    int64_t end) {
  with_channels(arguments.forward.shape, [&](auto key, auto) {
    MomentsBackward<T, key()> kernel(arguments);
    for_lanes<T>(begin, end, [&](const Lanes<T>& lanes) { kernel.compute(lanes); });
    kernel.add_tables(tables);
  });
}

template <class T>
void local_forward(
    const LocalForwardArguments<T>& arguments, int64_t rows, const Band* begin, const Band* end) {
  LocalForward<T> kernel(arguments, rows);
  for (const Band* band = begin; band != end; ++band) kernel.compute(*band);
}

template <class T>
void local_backward(
    const LocalBackwardArguments<T>& arguments, const LocalSums<T>& sums, int64_t rows,
    const Band* begin, const Band* end) {
  LocalBackward<T> kernel(arguments, rows);
  for (const Band* band = begin; band != end; ++band) kernel.compute(*band, sums);
}

template <class T>
void local_moments(
    const LocalLogitsArguments<T>& arguments, double* sums, int64_t rows, const Band* begin,
    const Band* end) {
  LocalMoments<T> kernel(arguments, rows);
  for (const Band* band = begin; band != end; ++band) kernel.compute(*band, sums);
}

template <class T>
void local_moments_backward(
    const LocalMomentsBackwardArguments<T>& arguments, const LocalTables<T>& tables,
    int64_t rows, const Band* begin, const Band* end) {
  LocalMomentsBackward<T> kernel(arguments, rows);
  for (const Band* band = begin; band != end; ++band) kernel.compute(*band, tables);
}

template <class T>
Kernels<T> kernels() {
  return {
      kLanes<T>,
      forward<T>,
      backward<T>,
      moments<T>,
      moments_backward<T>,
      {local_forward<T>, local_backward<T>, local_moments_backward<T>, local_moments<T>}};
}

Kernels<float> float_kernels() { return kernels<float>(); }
Kernels<double> double_kernels() { return kernels<double>(); }

}  // namespace axial_d2::AXIAL_D2_INSTRUCTIONS
