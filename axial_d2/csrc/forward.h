// Attention: logits, softmax and both retrieved terms, four queries at a time.

template <class T, int K, int V>
class Forward {
  static constexpr int64_t kQueries = 4;

 public:
  explicit Forward(const ForwardArguments<T>& arguments)
      : arguments_(arguments),
        shape_(arguments.shape),
        features_(shape_, arguments.tables, workspace_),
        value_(workspace_.take<T>(size())),
        content_(workspace_.take<T>(size())),
        position_(workspace_.take<T>(size())),
        weights_(workspace_.take<T>(pairs_size<T>(shape_, kQueries))) {}

  void compute(const Lanes<T>& lanes) {
    features_.fill(arguments_.query, arguments_.key, arguments_.scale, lanes);
    pack(shape_, arguments_.value, lanes, channels(), value_);
    for (int64_t i = 0; i < shape_.length; i += kQueries) {
      const Chunk chunk = chunk_of(features_, i, kQueries);
      all_logits(features_, chunk, weights_);
      for (int64_t query = i; query < chunk.last_query; ++query) retrieve(chunk, query, lanes);
    }
    unpack(shape_, arguments_.content, lanes, channels(), content_);
    unpack(shape_, arguments_.position, lanes, channels(), position_);
  }

 private:
  void retrieve(const Chunk& chunk, int64_t i, const Lanes<T>& lanes) {
    const int64_t first = features_.first_key(i), last = features_.last_key(i);
    T* weights = weights_ + pair(chunk, i, 0) * kLanes<T>;  // of key 0, if it is in reach
    Vector<T> largest = load(weights + first * kLanes<T>);
    for (int64_t j = first + 1; j < last; ++j)
      largest = larger<T>(largest, load(weights + j * kLanes<T>));
    Vector<T> sum{};
    for (int64_t j = first; j < last; ++j) {
      const Vector<T> weight = exponential(load(weights + j * kLanes<T>) - largest);
      store(weights + j * kLanes<T>, weight);
      sum += weight;
    }
    const Vector<T> share = T(1) / sum;
    int64_t c = 0;
    for (; c + 8 <= channels(); c += 8) sums<8>(weights, i, c, share);
    for (; c + 4 <= channels(); c += 4) sums<4>(weights, i, c, share);
    for (; c < channels(); ++c) sums<1>(weights, i, c, share);
    if (arguments_.log_sum)
      for (int lane = 0; lane < lanes.count; ++lane)
        arguments_.log_sum[(lanes.first + lane) * shape_.length + i] =
            largest[lane] + std::log(sum[lane]);
  }

  // sum_j p_ij v_j and sum_j p_ij r^v_{j-i}
  template <int Count>
  INLINE void sums(const T* weights, int64_t i, int64_t channel, Vector<T> share) {
    const T* value = value_ + channel * kLanes<T>;
    const T* table = arguments_.tables.value + (shape_.length - 1 - i) * channels() + channel;
    Vector<T> content[Count]{}, position[Count]{};
    for (int64_t j = features_.first_key(i); j < features_.last_key(i); ++j) {
      const Vector<T> weight = load(weights + j * kLanes<T>);
      for (int c = 0; c < Count; ++c) {
        content[c] += weight * load(value + (j * channels() + c) * kLanes<T>);
        position[c] += weight * table[j * channels() + c];
      }
    }
    for (int c = 0; c < Count; ++c) {
      const int64_t at = (i * channels() + channel + c) * kLanes<T>;
      store(content_ + at, content[c] * share);
      store(position_ + at, position[c] * share);
    }
  }

  int64_t channels() const { return V ? V : shape_.value_channels; }
  int64_t size() const { return shape_.length * channels() * kLanes<T>; }

  const ForwardArguments<T>& arguments_;
  const Shape& shape_;
  Workspace workspace_;
  Features<T, K> features_;
  T *value_, *content_, *position_;  // [L, V, lanes]
  T* weights_;                       // [query of the chunk, key, lanes]
};
