// Attention in a window: logits, softmax and both retrieved terms, a tile of queries at a time.

template <class T>
class LocalForward {
 public:
  LocalForward(const LocalForwardArguments<T>& arguments, int64_t rows)
      : arguments_(arguments),
        planes_(arguments.logits.shape, rows, workspace_),
        logits_(arguments.logits, planes_, workspace_),
        value_(workspace_.take<T>(channels() * planes_.key_plane)),
        content_(workspace_.take<T>(channels() * planes_.query_plane)),
        position_(workspace_.take<T>(channels() * planes_.query_plane)),
        log_sum_(workspace_.take<T>(planes_.query_plane)),
        weights_(workspace_.take<T>(planes_.shape.offsets() * kTile<T>)) {}

  void compute(const Band& band) {
    logits_.fill(band);
    if (arguments_.value.data) planes_.lay_keys(arguments_.value, band, channels(), value_);
    for (int64_t i = 0; i < planes_.queries_of(band); i += kTile<T>) {
      logits_.compute(i, weights_);
      Vector<T> share[kVectors];
      for (int u = 0; u < kVectors; ++u) share[u] = to_weights(i, u);
      in_fours(channels(), [&](auto count, int64_t channel) {
        if (arguments_.value.data) content<count()>(i, channel, share);
        if (arguments_.position.data) position<count()>(i, channel, share);
      });
    }
    if (arguments_.value.data)
      planes_.write_queries(arguments_.content, band, channels(), content_);
    if (arguments_.position.data)
      planes_.write_queries(arguments_.position, band, channels(), position_);
    if (!arguments_.log_sum) return;
    const LocalShape& shape = planes_.shape;
    planes_.for_query_rows(band, [&](int64_t position, int64_t row) {
      std::copy_n(
          log_sum_ + position, shape.width,
          arguments_.log_sum + (band.group * shape.height + row) * shape.width);
    });
  }

 private:
  // Exponentials instead of logits; returns what they are to be multiplied by.
  Vector<T> to_weights(int64_t i, int vector) {
    T* weights = weights_ + vector * kLanes<T>;
    const int64_t end = planes_.shape.offsets() * kTile<T>;
    Vector<T> largest = load(weights);
    for (int64_t at = kTile<T>; at < end; at += kTile<T>)
      largest = larger<T>(largest, load(weights + at));
    Vector<T> sum{};
    for (int64_t at = 0; at < end; at += kTile<T>) {
      const Vector<T> weight = exponential(load(weights + at) - largest);
      store(weights + at, weight);
      sum += weight;
    }
    if (!arguments_.log_sum) return T(1) / sum;
    T* log_sums = log_sum_ + planes_.margin + i + vector * kLanes<T>;
    for (int lane = 0; lane < kLanes<T>; ++lane)
      log_sums[lane] = largest[lane] + std::log(sum[lane]);
    return T(1) / sum;
  }

  // sum_j p_ij v_j
  template <int Count>
  INLINE void content(int64_t i, int64_t channel, const Vector<T>* share) {
    const T* value = value_ + channel * planes_.key_plane + i;
    Vector<T> sums[Count][kVectors]{};
    for (int64_t offset = 0; offset < planes_.shape.offsets(); ++offset)
      for (int u = 0; u < kVectors; ++u) {
        const Vector<T> weight = load(weights_ + offset * kTile<T> + u * kLanes<T>);
        const T* shifted = value + planes_.shifts[offset] + u * kLanes<T>;
        for (int c = 0; c < Count; ++c) sums[c][u] += weight * load(shifted + c * planes_.key_plane);
      }
    write(content_, i, channel, sums, share);
  }

  // sum_j p_ij r^v_{j-i}
  template <int Count>
  INLINE void position(int64_t i, int64_t channel, const Vector<T>* share) {
    const T* table = arguments_.logits.tables.value + channel;
    Vector<T> sums[Count][kVectors]{};
    for (int64_t offset = 0; offset < planes_.shape.offsets(); ++offset)
      for (int u = 0; u < kVectors; ++u) {
        const Vector<T> weight = load(weights_ + offset * kTile<T> + u * kLanes<T>);
        for (int c = 0; c < Count; ++c) sums[c][u] += weight * table[offset * channels() + c];
      }
    write(position_, i, channel, sums, share);
  }

  template <int Count>
  INLINE void write(
      T* to, int64_t i, int64_t channel, const Vector<T> (&sums)[Count][kVectors],
      const Vector<T>* share) const {
    for (int c = 0; c < Count; ++c)
      for (int u = 0; u < kVectors; ++u)
        store(
            to + (channel + c) * planes_.query_plane + planes_.margin + i + u * kLanes<T>,
            sums[c][u] * share[u]);
  }

  int64_t channels() const { return planes_.shape.value_channels; }

  const LocalForwardArguments<T>& arguments_;
  Workspace workspace_;
  Planes<T> planes_;
  LocalLogits<T> logits_;
  T* value_;                // [V, key plane]
  T *content_, *position_;  // [V, query plane]
  T* log_sum_;              // [query plane]
  T* weights_;              // [D, tile]
};
