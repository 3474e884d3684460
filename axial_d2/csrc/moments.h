// Sums of the logit terms and of their squares over all pairs in reach, and the way back.

// q_i k_j, q_i r^q_{j-i} and k_j r^k_{j-i} for `Keys` keys.
template <int Keys, class T, int K>
INLINE void terms_of(
    const Features<T, K>& features, int64_t i, int64_t j, Vector<T> (&terms)[3][Keys]) {
  const int64_t channels = features.channels();
  const T* queries = features.query + features.at(i);
  const T* keys = features.key + features.at(j);
  const T* query_table = features.query_table + features.row(i, j);
  const T* key_table = features.key_table + features.row(i, j);
  for (auto& term : terms)
    for (auto& sums : term) sums = Vector<T>{};
  for (int64_t c = 0; c < channels; ++c) {
    const Vector<T> query = load(queries + c * kLanes<T>);
    for (int w = 0; w < Keys; ++w) {
      const Vector<T> key = load(keys + (w * channels + c) * kLanes<T>);
      terms[0][w] += query * key;
      terms[1][w] += query * query_table[w * channels + c];
      terms[2][w] += key * key_table[w * channels + c];
    }
  }
}

template <class T, int K>
class Moments {
 public:
  explicit Moments(const MomentsArguments<T>& arguments)
      : arguments_(arguments),
        shape_(arguments.shape),
        features_(shape_, arguments.tables, workspace_) {}

  // sums: [2, 3, N]. One query's are added in the tensor's precision, all others in double, so
  // that no square cancels.
  void compute(const Lanes<T>& lanes, double* sums) {
    features_.fill(arguments_.query, arguments_.key, lanes);
    double totals[6][kLanes<T>] = {};
    for (int64_t i = 0; i < shape_.length; ++i) {
      Vector<T> query[6]{};
      int64_t j = features_.first_key(i);
      const int64_t last = features_.last_key(i);
      for (; j + 4 <= last; j += 4) add<4>(i, j, query);
      for (; j < last; ++j) add<1>(i, j, query);
      for (int at = 0; at < 6; ++at)
        for (int lane = 0; lane < kLanes<T>; ++lane) totals[at][lane] += query[at][lane];
    }
    for (int at = 0; at < 6; ++at)
      add_to_heads(shape_, lanes, totals[at], sums + at * shape_.heads);
  }

 private:
  template <int Keys>
  INLINE void add(int64_t i, int64_t j, Vector<T>* sums) const {
    Vector<T> terms[3][Keys];
    terms_of<Keys>(features_, i, j, terms);
    for (int term = 0; term < 3; ++term)
      for (int w = 0; w < Keys; ++w) {
        sums[term] += terms[term][w];
        sums[3 + term] += terms[term][w] * terms[term][w];
      }
  }

  const MomentsArguments<T>& arguments_;
  const Shape& shape_;
  Workspace workspace_;
  Features<T, K> features_;
};

template <class T, int K>
class MomentsBackward {
 public:
  explicit MomentsBackward(const MomentsBackwardArguments<T>& arguments)
      : arguments_(arguments),
        shape_(arguments.forward.shape),
        features_(shape_, arguments.forward.tables, workspace_),
        gradients_(features_, workspace_),
        content_(workspace_.take<T>(pairs_size<T>(shape_, kChunkQueries))),
        query_(workspace_.take<T>(pairs_size<T>(shape_, kChunkQueries))),
        key_(workspace_.take<T>(pairs_size<T>(shape_, kChunkQueries))) {
    features_.content_scale = features_.query_scale = features_.key_scale = Vector<T>{} + T(1);
    // Without scales the copies are the features themselves.
    features_.query_content = features_.query_position = features_.query;
    features_.key_position = features_.key;
  }

  void compute(const Lanes<T>& lanes) {
    features_.fill(arguments_.forward.query, arguments_.forward.key, lanes);
    for (int term = 0; term < 3; ++term) {
      offset_[term] = of_heads(shape_, lanes, arguments_.offset + term * shape_.heads);
      slope_[term] = of_heads(shape_, lanes, arguments_.slope + term * shape_.heads);
    }
    gradients_.start();
    for (int64_t first = 0; first < shape_.length; first += kChunkQueries) {
      const Chunk chunk = chunk_of(features_, first, kChunkQueries);
      for (int64_t i = chunk.first_query; i < chunk.last_query; ++i) {
        int64_t j = chunk.first_key;
        for (; j + 4 <= chunk.last_key; j += 4) terms<4>(chunk, i, j);
        for (; j < chunk.last_key; ++j) terms<1>(chunk, i, j);
      }
      for (T* each : {content_, query_, key_}) clear_beyond_reach(features_, chunk, each);
      gradients_.add(chunk, {content_, query_, key_});
    }
    gradients_.finish(lanes, false, nullptr);
    unpack(shape_, arguments_.grad_query, lanes, shape_.key_channels, gradients_.query());
    unpack(shape_, arguments_.grad_key, lanes, shape_.key_channels, gradients_.key());
  }

  void add_tables(const Tables<T>& tables) const {
    gradients_.add_tables(tables.query, tables.key);
  }

 private:
  template <int Keys>
  INLINE void terms(const Chunk& chunk, int64_t i, int64_t j) {
    Vector<T> terms[3][Keys];
    terms_of<Keys>(features_, i, j, terms);
    T* const gradients[3] = {content_, query_, key_};
    for (int term = 0; term < 3; ++term)
      for (int w = 0; w < Keys; ++w)
        store(
            gradients[term] + pair(chunk, i, j + w) * kLanes<T>,
            terms[term][w] * slope_[term] + offset_[term]);
  }

  const MomentsBackwardArguments<T>& arguments_;
  const Shape& shape_;
  Workspace workspace_;
  Features<T, K> features_;
  FeatureGradients<T, K> gradients_;
  T *content_, *query_, *key_;  // [query of the chunk, key, lanes]
  Vector<T> offset_[3], slope_[3];
};
