// From the gradients of the logit terms to those of query, key, tables and scales.

// Queries whose pairs are held at a time: their gradients stay in cache, and what adds up over
// queries is loaded and stored once for all of them.
constexpr int64_t kChunkQueries = 8;

// The gradient of each term for the pairs of a chunk; they may be the same memory.
template <class T>
struct TermGradients {
  const T *content, *query, *key;
};

template <class T, int K>
class FeatureGradients {
 public:
  FeatureGradients(const Features<T, K>& features, Workspace& workspace)
      : features_(features),
        query_(workspace.take<T>(features.size())),
        key_content_(workspace.take<T>(features.size())),
        key_position_(workspace.take<T>(features.size())),
        query_table_(workspace.take<T>(table_size())),
        key_table_(workspace.take<T>(table_size())) {}

  void start() {
    std::fill(key_content_, key_content_ + features_.size(), T(0));
    std::fill(key_position_, key_position_ + features_.size(), T(0));
    of_content_ = of_query_ = Vector<T>{};
  }

  void add(const Chunk& chunk, const TermGradients<T>& terms) {
    for (int64_t i = chunk.first_query; i < chunk.last_query; ++i) {
      int64_t c = 0;
      for (; c + 4 <= channels(); c += 4) query<4>(chunk, terms, i, c);
      for (; c < channels(); ++c) query<1>(chunk, terms, i, c);
    }
    for (int64_t j = chunk.first_key; j < chunk.last_key; ++j) {
      int64_t c = 0;
      for (; c + 4 <= channels(); c += 4) key<4>(chunk, terms, j, c);
      for (; c < channels(); ++c) key<1>(chunk, terms, j, c);
    }
    for (int64_t offset = chunk.first_key - chunk.last_query + 1;
         offset < chunk.last_key - chunk.first_query; ++offset) {
      int64_t c = 0;
      for (; c + 4 <= channels(); c += 4) table<4>(chunk, terms, offset, c);
      for (; c < channels(); ++c) table<1>(chunk, terms, offset, c);
    }
  }

  // What is left when all chunks are added: the key's gradient, and the scales'.
  void finish(const Lanes<T>& lanes, bool with_scale, double* scale_sums) {
    Vector<T> of_key{};
    for (int64_t at = 0; at < features_.size(); at += kLanes<T>) {
      const Vector<T> position = load(key_position_ + at);
      of_key += position * load(features_.key + at);
      const Vector<T> scaled = with_scale ? position * features_.key_scale : position;
      store(key_content_ + at, load(key_content_ + at) + scaled);
    }
    if (!with_scale) return;
    const Shape& shape = features_.shape;
    add_to_heads(shape, lanes, of_content_, scale_sums);
    add_to_heads(shape, lanes, of_query_, scale_sums + shape.heads);
    add_to_heads(shape, lanes, of_key, scale_sums + 2 * shape.heads);
  }

  // Sums over lanes, of everything added since the construction.
  void add_tables(T* query_table, T* key_table) const {
    for (int64_t at = 0; at < features_.shape.offsets() * channels(); ++at) {
      query_table[at] += sum_of_lanes<T>(load(query_table_ + at * kLanes<T>));
      key_table[at] += sum_of_lanes<T>(load(key_table_ + at * kLanes<T>));
    }
  }

  const T* query() const { return query_; }     // [L, K, lanes]
  const T* key() const { return key_content_; }  // [L, K, lanes], once finished

 private:
  // dq_i = s_0 sum_j g_ij k_j + s_1 sum_j g_ij r^q_{j-i}
  template <int Count>
  INLINE void query(
      const Chunk& chunk, const TermGradients<T>& terms, int64_t i, int64_t channel) {
    const T* of_content = terms.content + pair(chunk, i, 0) * kLanes<T>;
    const T* of_query = terms.query + pair(chunk, i, 0) * kLanes<T>;
    const T* keys = features_.key + channel * kLanes<T>;
    const T* table = features_.query_table + features_.row(i, 0) + channel;
    Vector<T> content[Count]{}, position[Count]{};
    for (int64_t j = features_.first_key(i); j < features_.last_key(i); ++j) {
      const Vector<T> content_gradient = load(of_content + j * kLanes<T>);
      const Vector<T> query_gradient = load(of_query + j * kLanes<T>);
      for (int c = 0; c < Count; ++c) {
        content[c] += content_gradient * load(keys + (j * channels() + c) * kLanes<T>);
        position[c] += query_gradient * table[j * channels() + c];
      }
    }
    for (int c = 0; c < Count; ++c) {
      const int64_t at = features_.at(i) + (channel + c) * kLanes<T>;
      const Vector<T> feature = load(features_.query + at);
      of_content_ += content[c] * feature;
      of_query_ += position[c] * feature;
      store(
          query_ + at,
          content[c] * features_.content_scale + position[c] * features_.query_scale);
    }
  }

  // sum_i s_0 g_ij q_i and sum_i g_ij r^k_{j-i}
  template <int Count>
  INLINE void key(
      const Chunk& chunk, const TermGradients<T>& terms, int64_t j, int64_t channel) {
    T* content_sums = key_content_ + features_.at(j) + channel * kLanes<T>;
    T* position_sums = key_position_ + features_.at(j) + channel * kLanes<T>;
    Vector<T> content[Count], position[Count];
    for (int c = 0; c < Count; ++c) {
      content[c] = load(content_sums + c * kLanes<T>);
      position[c] = load(position_sums + c * kLanes<T>);
    }
    for (int64_t i = chunk.first_query; i < chunk.last_query; ++i) {
      const int64_t at = pair(chunk, i, j) * kLanes<T>;
      const Vector<T> content_gradient = load(terms.content + at);
      const Vector<T> key_gradient = load(terms.key + at);
      const T* queries = features_.query_content + features_.at(i) + channel * kLanes<T>;
      const T* table = features_.key_table + features_.row(i, j) + channel;
      for (int c = 0; c < Count; ++c) {
        content[c] += content_gradient * load(queries + c * kLanes<T>);
        position[c] += key_gradient * table[c];
      }
    }
    for (int c = 0; c < Count; ++c) {
      store(content_sums + c * kLanes<T>, content[c]);
      store(position_sums + c * kLanes<T>, position[c]);
    }
  }

  // dr^q_{j-i} += s_1 g_ij q_i and dr^k_{j-i} += s_2 g_ij k_j for all pairs of one offset j - i
  template <int Count>
  INLINE void table(
      const Chunk& chunk, const TermGradients<T>& terms, int64_t offset, int64_t channel) {
    const int64_t row = (features_.row(0, offset) + channel) * kLanes<T>;
    Vector<T> of_query[Count], of_key[Count];
    for (int c = 0; c < Count; ++c) {
      of_query[c] = load(query_table_ + row + c * kLanes<T>);
      of_key[c] = load(key_table_ + row + c * kLanes<T>);
    }
    const int64_t first = std::max(chunk.first_query, chunk.first_key - offset);
    const int64_t last = std::min(chunk.last_query, chunk.last_key - offset);
    for (int64_t i = first; i < last; ++i) {
      const int64_t at = pair(chunk, i, i + offset) * kLanes<T>;
      const Vector<T> query_gradient = load(terms.query + at), key_gradient = load(terms.key + at);
      const T* queries = features_.query_position + features_.at(i) + channel * kLanes<T>;
      const T* keys = features_.key_position + features_.at(i + offset) + channel * kLanes<T>;
      for (int c = 0; c < Count; ++c) {
        of_query[c] += query_gradient * load(queries + c * kLanes<T>);
        of_key[c] += key_gradient * load(keys + c * kLanes<T>);
      }
    }
    for (int c = 0; c < Count; ++c) {
      store(query_table_ + row + c * kLanes<T>, of_query[c]);
      store(key_table_ + row + c * kLanes<T>, of_key[c]);
    }
  }

  int64_t channels() const { return features_.channels(); }
  int64_t table_size() const { return features_.shape.offsets() * channels() * kLanes<T>; }

  const Features<T, K>& features_;
  T *query_, *key_content_, *key_position_;  // [L, K, lanes]
  T *query_table_, *key_table_;              // [D, K, lanes]
  Vector<T> of_content_, of_query_;
};
