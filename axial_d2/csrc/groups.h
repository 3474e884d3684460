// Lanes are groups: one vector holds the same position and channel of as many lines' heads as it
// has lanes. Packed tensors are [L, C, lanes].

// The groups of one vector.
template <class T>
struct Lanes {
  int64_t first, count;  // count < kLanes<T> at the end: the other lanes are idle, and all zero

  bool idle() const { return count < kLanes<T>; }
};

typedef float Four __attribute__((vector_size(16)));
typedef float UnalignedFour __attribute__((vector_size(16), aligned(4), may_alias));

INLINE void transpose(Four rows[4]) {
#if defined(__clang__) || __GNUC__ >= 12
  const Four a = __builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5);
  const Four b = __builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7);
  const Four c = __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5);
  const Four d = __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7);
  rows[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
  rows[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
  rows[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
  rows[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
#else
  const Four old[4] = {rows[0], rows[1], rows[2], rows[3]};
  for (int row = 0; row < 4; ++row)
    for (int column = 0; column < 4; ++column) rows[row][column] = old[column][row];
#endif
}

// Whether a tensor's channels can be moved four at a time.
template <class T>
INLINE bool by_four(const Lanes<T>& lanes, int64_t channel_stride, int64_t channels) {
  return std::is_same_v<T, float> && !lanes.idle() && channel_stride == 1 && channels % 4 == 0;
}

template <class T>
inline void pack(
    const Shape& shape, const Strided<const T>& from, const Lanes<T>& lanes, int64_t channels,
    T* to) {
  const T* groups[kLanes<T>]{};
  for (int lane = 0; lane < lanes.count; ++lane)
    groups[lane] = from.of_group(shape, lanes.first + lane);
  if constexpr (std::is_same_v<T, float>) {
    if (by_four(lanes, from.channel, channels)) {
      for (int64_t i = 0; i < shape.length; ++i, to += channels * kLanes<T>)
        for (int lane = 0; lane < kLanes<T>; lane += 4)
          for (int64_t c = 0; c < channels; c += 4) {
            Four rows[4];
            for (int at = 0; at < 4; ++at)
              rows[at] = *reinterpret_cast<const UnalignedFour*>(
                  groups[lane + at] + i * from.position + c);
            transpose(rows);
            for (int at = 0; at < 4; ++at)
              *reinterpret_cast<UnalignedFour*>(to + (c + at) * kLanes<T> + lane) = rows[at];
          }
      return;
    }
  }
  for (int64_t i = 0; i < shape.length; ++i)
    for (int64_t c = 0; c < channels; ++c, to += kLanes<T>)
      for (int lane = 0; lane < kLanes<T>; ++lane)
        to[lane] = lane < lanes.count ? groups[lane][i * from.position + c * from.channel] : T(0);
}

template <class T>
inline void unpack(
    const Shape& shape, const Strided<T>& to, const Lanes<T>& lanes, int64_t channels,
    const T* from) {
  T* groups[kLanes<T>]{};
  for (int lane = 0; lane < lanes.count; ++lane)
    groups[lane] = to.of_group(shape, lanes.first + lane);
  if constexpr (std::is_same_v<T, float>) {
    if (by_four(lanes, to.channel, channels)) {
      for (int64_t i = 0; i < shape.length; ++i, from += channels * kLanes<T>)
        for (int lane = 0; lane < kLanes<T>; lane += 4)
          for (int64_t c = 0; c < channels; c += 4) {
            Four rows[4];
            for (int at = 0; at < 4; ++at)
              rows[at] =
                  *reinterpret_cast<const UnalignedFour*>(from + (c + at) * kLanes<T> + lane);
            transpose(rows);
            for (int at = 0; at < 4; ++at)
              *reinterpret_cast<UnalignedFour*>(groups[lane + at] + i * to.position + c) =
                  rows[at];
          }
      return;
    }
  }
  for (int64_t i = 0; i < shape.length; ++i)
    for (int64_t c = 0; c < channels; ++c, from += kLanes<T>)
      for (int lane = 0; lane < lanes.count; ++lane)
        groups[lane][i * to.position + c * to.channel] = from[lane];
}

// A number a head, [N], for every lane; 0 for idle ones.
template <class T>
INLINE Vector<T> of_heads(const Shape& shape, const Lanes<T>& lanes, const T* numbers) {
  Vector<T> vector{};
  for (int lane = 0; lane < lanes.count; ++lane)
    vector[lane] = numbers[(lanes.first + lane) % shape.heads];
  return vector;
}

// Adds every lane to its head's sum.
template <class T, class V>
INLINE void add_to_heads(
    const Shape& shape, const Lanes<T>& lanes, const V& vector, double* sums) {
  for (int lane = 0; lane < lanes.count; ++lane)
    sums[(lanes.first + lane) % shape.heads] += vector[lane];
}

template <class T>
inline void multiply(T* to, const T* from, Vector<T> factor, int64_t vectors) {
  for (int64_t at = 0; at < vectors * kLanes<T>; at += kLanes<T>)
    store(to + at, load(from + at) * factor);
}
