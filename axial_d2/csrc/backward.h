// Gradients of attention: the weights are computed again from the logits and their log-sum-exp.

template <class T, int K, int V>
class Backward {
 public:
  explicit Backward(const BackwardArguments<T>& arguments)
      : arguments_(arguments),
        shape_(arguments.shape),
        features_(shape_, arguments.tables, workspace_),
        gradients_(features_, workspace_),
        value_(workspace_.take<T>(size())),
        grad_value_(workspace_.take<T>(size())),
        grad_content_(workspace_.take<T>(size())),
        grad_position_(workspace_.take<T>(size())),
        log_sum_(workspace_.take<T>(shape_.length * kLanes<T>)),
        table_(workspace_.take<T>(shape_.offsets() * channels() * kLanes<T>)),
        weights_(workspace_.take<T>(pairs_size<T>(shape_, kChunkQueries))),
        logits_(workspace_.take<T>(pairs_size<T>(shape_, kChunkQueries))) {}

  void compute(const Lanes<T>& lanes, double* scale_sums) {
    read(lanes);
    gradients_.start();
    std::fill(grad_value_, grad_value_ + size(), T(0));
    for (int64_t i = 0; i < shape_.length; i += kChunkQueries) {
      const Chunk chunk = chunk_of(features_, i, kChunkQueries);
      compute_weights(chunk);
      compute_logit_gradients(chunk);
      add_value_gradients(chunk);
      gradients_.add(chunk, {logits_, logits_, logits_});
    }
    gradients_.finish(lanes, true, scale_sums);
    unpack(shape_, arguments_.grad_query, lanes, shape_.key_channels, gradients_.query());
    unpack(shape_, arguments_.grad_key, lanes, shape_.key_channels, gradients_.key());
    unpack(shape_, arguments_.grad_value, lanes, channels(), grad_value_);
  }

  void add_tables(const Tables<T>& tables) const {
    gradients_.add_tables(tables.query, tables.key);
    for (int64_t at = 0; at < shape_.offsets() * channels(); ++at)
      tables.value[at] += sum_of_lanes<T>(load(table_ + at * kLanes<T>));
  }

 private:
  void read(const Lanes<T>& lanes) {
    features_.fill(arguments_.query, arguments_.key, arguments_.scale, lanes);
    pack(shape_, arguments_.value, lanes, channels(), value_);
    pack(shape_, arguments_.grad_content, lanes, channels(), grad_content_);
    pack(shape_, arguments_.grad_position, lanes, channels(), grad_position_);
    for (int lane = 0; lane < lanes.count; ++lane)
      for (int64_t i = 0; i < shape_.length; ++i)
        log_sum_[i * kLanes<T> + lane] =
            arguments_.log_sum[(lanes.first + lane) * shape_.length + i];
  }

  void compute_weights(const Chunk& chunk) {
    all_logits(features_, chunk, weights_);
    for (int64_t i = chunk.first_query; i < chunk.last_query; ++i) {
      const Vector<T> log_sum = load(log_sum_ + i * kLanes<T>);
      T* weights = weights_ + pair(chunk, i, 0) * kLanes<T>;
      for (int64_t j = features_.first_key(i); j < features_.last_key(i); ++j)
        store(weights + j * kLanes<T>, exponential(load(weights + j * kLanes<T>) - log_sum));
    }
    clear_beyond_reach(features_, chunk, weights_);
  }

  // p_ij (u_ij - sum_j p_ij u_ij) with u_ij = g_i v_j + h_i r^v_{j-i}, the weight's gradient
  void compute_logit_gradients(const Chunk& chunk) {
    for_tiles<4>(chunk, [&](auto queries, auto keys, int64_t i, int64_t j) {
      weight_gradients<queries(), keys()>(chunk, i, j);
    });
    for (int64_t i = chunk.first_query; i < chunk.last_query; ++i) {
      const T* weights = weights_ + pair(chunk, i, chunk.first_key) * kLanes<T>;
      T* gradients = logits_ + pair(chunk, i, chunk.first_key) * kLanes<T>;
      const int64_t end = chunk.keys() * kLanes<T>;
      Vector<T> mean{};
      for (int64_t at = 0; at < end; at += kLanes<T>)
        mean += load(weights + at) * load(gradients + at);
      for (int64_t at = 0; at < end; at += kLanes<T>)
        store(gradients + at, load(weights + at) * (load(gradients + at) - mean));
    }
  }

  template <int Queries, int Keys>
  INLINE void weight_gradients(const Chunk& chunk, int64_t i, int64_t j) {
    const T* content = grad_content_ + i * channels() * kLanes<T>;
    const T* position = grad_position_ + i * channels() * kLanes<T>;
    const T* value = value_ + j * channels() * kLanes<T>;
    const T* table = arguments_.tables.value + (j - i + shape_.length - 1) * channels();
    Vector<T> sums[Queries][Keys]{};
    for (int64_t c = 0; c < channels(); ++c) {
      for (int u = 0; u < Queries; ++u) {
        const Vector<T> of_content = load(content + (u * channels() + c) * kLanes<T>);
        const Vector<T> of_position = load(position + (u * channels() + c) * kLanes<T>);
        for (int w = 0; w < Keys; ++w) {
          sums[u][w] += of_content * load(value + (w * channels() + c) * kLanes<T>);
          sums[u][w] += of_position * table[(w - u) * channels() + c];
        }
      }
    }
    for (int u = 0; u < Queries; ++u)
      for (int w = 0; w < Keys; ++w)
        store(logits_ + pair(chunk, i + u, j + w) * kLanes<T>, sums[u][w]);
  }

  void add_value_gradients(const Chunk& chunk) {
    for (int64_t j = chunk.first_key; j < chunk.last_key; ++j) {
      int64_t c = 0;
      for (; c + 8 <= channels(); c += 8) value<8>(chunk, j, c);
      for (; c + 4 <= channels(); c += 4) value<4>(chunk, j, c);
      for (; c < channels(); ++c) value<1>(chunk, j, c);
    }
    for (int64_t offset = chunk.first_key - chunk.last_query + 1;
         offset < chunk.last_key - chunk.first_query; ++offset) {
      int64_t c = 0;
      for (; c + 8 <= channels(); c += 8) table<8>(chunk, offset, c);
      for (; c + 4 <= channels(); c += 4) table<4>(chunk, offset, c);
      for (; c < channels(); ++c) table<1>(chunk, offset, c);
    }
  }

  // dv_j += p_ij g_i
  template <int Count>
  INLINE void value(const Chunk& chunk, int64_t j, int64_t channel) {
    T* sums = grad_value_ + (j * channels() + channel) * kLanes<T>;
    Vector<T> values[Count];
    for (int c = 0; c < Count; ++c) values[c] = load(sums + c * kLanes<T>);
    for (int64_t i = chunk.first_query; i < chunk.last_query; ++i) {
      const Vector<T> weight = load(weights_ + pair(chunk, i, j) * kLanes<T>);
      const T* content = grad_content_ + (i * channels() + channel) * kLanes<T>;
      for (int c = 0; c < Count; ++c) values[c] += weight * load(content + c * kLanes<T>);
    }
    for (int c = 0; c < Count; ++c) store(sums + c * kLanes<T>, values[c]);
  }

  // dr^v_{j-i} += p_ij h_i for all pairs of one offset j - i
  template <int Count>
  INLINE void table(const Chunk& chunk, int64_t offset, int64_t channel) {
    T* sums = table_ + ((offset + shape_.length - 1) * channels() + channel) * kLanes<T>;
    Vector<T> values[Count];
    for (int c = 0; c < Count; ++c) values[c] = load(sums + c * kLanes<T>);
    const int64_t first = std::max(chunk.first_query, chunk.first_key - offset);
    const int64_t last = std::min(chunk.last_query, chunk.last_key - offset);
    for (int64_t i = first; i < last; ++i) {
      const Vector<T> weight = load(weights_ + pair(chunk, i, i + offset) * kLanes<T>);
      const T* position = grad_position_ + (i * channels() + channel) * kLanes<T>;
      for (int c = 0; c < Count; ++c) values[c] += weight * load(position + c * kLanes<T>);
    }
    for (int c = 0; c < Count; ++c) store(sums + c * kLanes<T>, values[c]);
  }

  int64_t channels() const { return V ? V : shape_.value_channels; }
  int64_t size() const { return shape_.length * channels() * kLanes<T>; }

  const BackwardArguments<T>& arguments_;
  const Shape& shape_;
  Workspace workspace_;
  Features<T, K> features_;
  FeatureGradients<T, K> gradients_;
  T *value_, *grad_value_, *grad_content_, *grad_position_;  // [L, V, lanes]
  T* log_sum_;                                               // [L, lanes]
  T* table_;                                                 // [D, V, lanes]
  T *weights_, *logits_;  // p and the logits' gradient, [query of the chunk, key, lanes]
};
