// Vectors of the compiler's own kind, as wide as the instruction set has them (AXIAL_D2_BYTES).
// Included once by every instruction set's file, inside a namespace of its own.

constexpr int kBytes = AXIAL_D2_BYTES;

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kBytes)));
  typedef T unaligned __attribute__((vector_size(kBytes), aligned(alignof(T)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = kBytes / sizeof(T);

typedef int32_t Int32Vector __attribute__((vector_size(kBytes)));

#define INLINE inline __attribute__((always_inline))

template <class T>
INLINE Vector<T> load(const T* from) {
  return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(from);
}

template <class T>
INLINE void store(T* to, Vector<T> vector) {
  *reinterpret_cast<typename VectorOf<T>::unaligned*>(to) = vector;
}

template <class T>
INLINE Vector<T> larger(Vector<T> a, Vector<T> b) {
  return a > b ? a : b;
}

// e^x; 0 below the smallest normal number. Within 2e-7, relative.
INLINE Vector<float> exponential(Vector<float> x) {
  const float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  Vector<float> shifted = x * 1.44269504f + to_integer;
  Vector<float> power = shifted - to_integer;
  Vector<float> rest = x - power * 0.693359375f;
  rest = rest - power * -2.12194440e-4f;
  Vector<float> result = rest * 1.3888889e-3f + 8.3333333e-3f;
  result = result * rest + 4.1666667e-2f;
  result = result * rest + 1.6666667e-1f;
  result = result * rest + 0.5f;
  result = result * rest + 1.0f;
  result = result * rest + 1.0f;
  Int32Vector bits = reinterpret_cast<Int32Vector>(result);
  bits += reinterpret_cast<Int32Vector>(shifted) << 23;
  return x < -87.0f ? Vector<float>{} : reinterpret_cast<Vector<float>>(bits);
}

INLINE Vector<double> exponential(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}

template <class T>
INLINE T sum_of_lanes(Vector<T> vector) {
  T sum = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) sum += vector[lane];
  return sum;
}
