// Gradients of attention in a window: weights are computed again from logits and log-sum-exp.

template <class T>
class LocalBackward {
 public:
  LocalBackward(const LocalBackwardArguments<T>& arguments, int64_t rows)
      : arguments_(arguments),
        planes_(arguments.logits.shape, rows, workspace_),
        logits_(arguments.logits, planes_, workspace_),
        gradients_(logits_, planes_, workspace_),
        value_(workspace_.take<T>(channels() * planes_.key_plane)),
        grad_value_(workspace_.take<T>(channels() * planes_.key_plane)),
        grad_content_(workspace_.take<T>(channels() * planes_.query_plane)),
        grad_position_(workspace_.take<T>(channels() * planes_.query_plane)),
        log_sum_(workspace_.take<T>(planes_.query_plane)),
        tile_(workspace_.take<T>(planes_.shape.offsets() * kTile<T>)),
        weights_(workspace_.take<T>(planes_.shape.offsets() * planes_.query_plane)),
        logit_gradients_(workspace_.take<T>(planes_.shape.offsets() * planes_.query_plane)) {}

  void compute(const Band& band, const LocalSums<T>& sums) {
    read(band);
    clear_rest(band, weights_);
    clear_rest(band, logit_gradients_);
    for (int64_t i = 0; i < planes_.queries_of(band); i += kTile<T>) {
      compute_weights(i);
      compute_logit_gradients(i);
    }
    if (has_content()) {
      std::fill(grad_value_, grad_value_ + channels() * planes_.key_plane, T(0));
      in_fours(channels(), [&](auto count, int64_t c) {
        for (int64_t j = 0; j < planes_.keys_of(band); j += kTile<T>)
          add_to_keys<T, count()>(
              planes_, weights_, grad_content_ + c * planes_.query_plane, j,
              grad_value_ + c * planes_.key_plane);
      });
      planes_.add_keys(arguments_.grad_value, band, channels(), grad_value_);
    }
    if (has_position())
      add_query_sums(
          planes_, band, weights_, grad_position_, channels(), sums.tables.value);
    gradients_.add(
        band, {logit_gradients_, logit_gradients_, logit_gradients_}, arguments_.grad_query,
        arguments_.grad_key, sums);
  }

 private:
  // Such queries weigh nothing, whatever is not finite around them.
  auto in_padding(int64_t at) const { return load(log_sum_ + at) == -kOutside<T>; }

  void read(const Band& band) {
    logits_.fill(band);
    if (has_content()) {
      planes_.lay_keys(arguments_.value, band, channels(), value_);
      planes_.lay_queries(arguments_.grad_content, band, channels(), grad_content_);
    }
    if (has_position())
      planes_.lay_queries(arguments_.grad_position, band, channels(), grad_position_);
    const LocalShape& shape = planes_.shape;
    std::fill(log_sum_, log_sum_ + planes_.query_plane, -kOutside<T>);
    planes_.for_query_rows(band, [&](int64_t position, int64_t row) {
      std::copy_n(
          arguments_.log_sum + (band.group * shape.height + row) * shape.width, shape.width,
          log_sum_ + position);
    });
  }

  // What an earlier, longer band has left behind this one.
  void clear_rest(const Band& band, T* pairs) const {
    for (int64_t offset = 0; offset < planes_.shape.offsets(); ++offset, pairs += planes_.query_plane)
      std::fill(
          pairs + planes_.margin + planes_.queries_of(band),
          pairs + planes_.margin + planes_.queries, T(0));
  }

  void compute_weights(int64_t i) {
    logits_.compute(i, tile_);
    for (int u = 0; u < kVectors; ++u) {
      const int64_t at = planes_.margin + i + u * kLanes<T>;
      const Vector<T> log_sum = load(log_sum_ + at);
      for (int64_t offset = 0; offset < planes_.shape.offsets(); ++offset) {
        const Vector<T> logit = load(tile_ + offset * kTile<T> + u * kLanes<T>);
        const Vector<T> weight = exponential(logit - log_sum);
        store(
            weights_ + offset * planes_.query_plane + at,
            in_padding(at) ? Vector<T>{} : weight);
      }
    }
  }

  // p_ij (u_ij - sum_j p_ij u_ij) with u_ij = g_i v_j + h_i r^v_{j-i}, the weight's gradient
  void compute_logit_gradients(int64_t i) {
    Vector<T> mean[kVectors]{};
    in_fours(planes_.shape.offsets(), [&](auto count, int64_t offset) {
      Vector<T> sums[count()][kVectors]{};
      if (has_content()) add_content(sums, offset, i);
      if (has_position()) add_position(sums, offset, i);
      for (int o = 0; o < count(); ++o)
        for (int u = 0; u < kVectors; ++u) {
          const int64_t at = pair(offset + o, i, u);
          mean[u] += load(weights_ + at) * sums[o][u];
          store(logit_gradients_ + at, sums[o][u]);
        }
    });
    for (int u = 0; u < kVectors; ++u) {
      const auto padding = in_padding(planes_.margin + i + u * kLanes<T>);
      for (int64_t offset = 0; offset < planes_.shape.offsets(); ++offset) {
        const int64_t at = pair(offset, i, u);
        const Vector<T> gradient =
            load(weights_ + at) * (load(logit_gradients_ + at) - mean[u]);
        store(logit_gradients_ + at, padding ? Vector<T>{} : gradient);
      }
    }
  }

  template <int Count>
  INLINE void add_content(Vector<T> (&sums)[Count][kVectors], int64_t offset, int64_t i) const {
    for (int64_t c = 0; c < channels(); ++c)
      for (int u = 0; u < kVectors; ++u) {
        const int64_t at = i + u * kLanes<T>;
        const Vector<T> upstream = load(grad_content_ + c * planes_.query_plane + planes_.margin + at);
        for (int o = 0; o < Count; ++o)
          sums[o][u] +=
              upstream * load(value_ + c * planes_.key_plane + at + planes_.shifts[offset + o]);
      }
  }

  template <int Count>
  INLINE void add_position(Vector<T> (&sums)[Count][kVectors], int64_t offset, int64_t i) const {
    const T* table = arguments_.logits.tables.value;
    for (int64_t c = 0; c < channels(); ++c)
      for (int u = 0; u < kVectors; ++u) {
        const Vector<T> upstream =
            load(grad_position_ + c * planes_.query_plane + planes_.margin + i + u * kLanes<T>);
        for (int o = 0; o < Count; ++o)
          sums[o][u] += upstream * table[(offset + o) * channels() + c];
      }
  }

  int64_t pair(int64_t offset, int64_t i, int vector) const {
    return offset * planes_.query_plane + planes_.margin + i + vector * kLanes<T>;
  }
  bool has_content() const { return arguments_.value.data; }
  bool has_position() const { return arguments_.logits.tables.value; }
  int64_t channels() const { return planes_.shape.value_channels; }

  const LocalBackwardArguments<T>& arguments_;
  Workspace workspace_;
  Planes<T> planes_;
  LocalLogits<T> logits_;
  LocalFeatureGradients<T> gradients_;
  T *value_, *grad_value_;            // [V, key plane]
  T *grad_content_, *grad_position_;  // [V, query plane]
  T* log_sum_;                        // [query plane]
  T* tile_;                           // [D, tile]
  T *weights_, *logit_gradients_;     // [D, query plane]
};
