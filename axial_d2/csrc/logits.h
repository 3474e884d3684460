// Query and key of one vector of groups, and their logits.
// K is the number of key channels where the compiler may know it, else 0.

template <class T, int K>
struct Features {
  const Shape& shape;
  const T *query_table, *key_table;              // [D, K]
  Vector<T> content_scale, query_scale, key_scale;
  T *query, *query_content, *query_position;     // q, s_0 q, s_1 q: [L, K, lanes]
  T *key, *key_position;                         // k, s_2 k

  Features(const Shape& of, const Tables<const T>& tables, Workspace& workspace)
      : shape(of),
        query_table(tables.query),
        key_table(tables.key),
        query(workspace.take<T>(size())),
        query_content(workspace.take<T>(size())),
        query_position(workspace.take<T>(size())),
        key(workspace.take<T>(size())),
        key_position(workspace.take<T>(size())) {}

  // scale: [3, N]
  void fill(
      const Strided<const T>& from_query, const Strided<const T>& from_key, const T* scale,
      const Lanes<T>& lanes) {
    content_scale = of_heads(shape, lanes, scale);
    query_scale = of_heads(shape, lanes, scale + shape.heads);
    key_scale = of_heads(shape, lanes, scale + 2 * shape.heads);
    fill(from_query, from_key, lanes);
    multiply<T>(query_content, query, content_scale, shape.length * channels());
    multiply<T>(query_position, query, query_scale, shape.length * channels());
    multiply<T>(key_position, key, key_scale, shape.length * channels());
  }

  void fill(
      const Strided<const T>& from_query, const Strided<const T>& from_key,
      const Lanes<T>& lanes) {
    pack(shape, from_query, lanes, channels(), query);
    pack(shape, from_key, lanes, channels(), key);
  }

  int64_t channels() const { return K ? K : shape.key_channels; }
  int64_t size() const { return shape.length * channels() * kLanes<T>; }
  // Of the tables, for one query and key.
  int64_t row(int64_t i, int64_t j) const { return (j - i + shape.length - 1) * channels(); }
  int64_t at(int64_t position) const { return position * channels() * kLanes<T>; }
  int64_t first_key(int64_t i) const { return std::max<int64_t>(0, i - shape.reach); }
  int64_t last_key(int64_t i) const {  // excluded
    return std::min<int64_t>(shape.length, i + shape.reach + 1);
  }
};

// Queries first to last (excluded) and all keys that any of them reaches.
struct Chunk {
  int64_t first_query, last_query, first_key, last_key;

  int64_t keys() const { return last_key - first_key; }
};

template <class T, int K>
INLINE Chunk chunk_of(const Features<T, K>& features, int64_t first, int64_t queries) {
  const int64_t last = std::min(features.shape.length, first + queries);
  return {first, last, features.first_key(first), features.last_key(last - 1)};
}

// Pairs of a chunk's queries and keys: [query, key, lanes].
INLINE int64_t pair(const Chunk& chunk, int64_t i, int64_t j) {
  return (i - chunk.first_query) * chunk.keys() + j - chunk.first_key;
}

template <class T>
INLINE int64_t pairs_size(const Shape& shape, int64_t queries) {
  return queries * std::min<int64_t>(shape.length, queries + 2 * shape.reach) * kLanes<T>;
}

// s_0 q_i k_j + s_1 q_i r^q_{j-i} + s_2 k_j r^k_{j-i} for `Queries` times `Keys` pairs.
template <int Queries, int Keys, class T, int K>
INLINE void logits_tile(
    const Features<T, K>& features, const Chunk& chunk, int64_t i, int64_t j, T* logits) {
  const int64_t channels = features.channels();
  const T* query_content = features.query_content + features.at(i);
  const T* query_position = features.query_position + features.at(i);
  const T* key = features.key + features.at(j);
  const T* key_position = features.key_position + features.at(j);
  const T* query_table = features.query_table + features.row(i, j);
  const T* key_table = features.key_table + features.row(i, j);
  Vector<T> sums[Queries][Keys]{};
  for (int64_t c = 0; c < channels; ++c) {
    for (int u = 0; u < Queries; ++u) {
      const Vector<T> content = load(query_content + (u * channels + c) * kLanes<T>);
      const Vector<T> position = load(query_position + (u * channels + c) * kLanes<T>);
      for (int w = 0; w < Keys; ++w) {
        const int64_t row = (w - u) * channels + c;
        sums[u][w] += content * load(key + (w * channels + c) * kLanes<T>);
        sums[u][w] += position * query_table[row];
        sums[u][w] += load(key_position + (w * channels + c) * kLanes<T>) * key_table[row];
      }
    }
  }
  for (int u = 0; u < Queries; ++u)
    for (int w = 0; w < Keys; ++w)
      store(logits + pair(chunk, i + u, j + w) * kLanes<T>, sums[u][w]);
}

// Calls tile<Queries, Keys>(i, j) for all pairs of a chunk.
template <int Most, class Tile>
INLINE void for_tiles(const Chunk& chunk, const Tile& tile) {
  int64_t i = chunk.first_query;
  for (; i + Most <= chunk.last_query; i += Most) {
    int64_t j = chunk.first_key;
    for (; j + Most <= chunk.last_key; j += Most)
      tile(std::integral_constant<int, Most>(), std::integral_constant<int, Most>(), i, j);
    for (; j < chunk.last_key; ++j)
      tile(std::integral_constant<int, Most>(), std::integral_constant<int, 1>(), i, j);
  }
  for (; i < chunk.last_query; ++i) {
    int64_t j = chunk.first_key;
    for (; j + Most <= chunk.last_key; j += Most)
      tile(std::integral_constant<int, 1>(), std::integral_constant<int, Most>(), i, j);
    for (; j < chunk.last_key; ++j)
      tile(std::integral_constant<int, 1>(), std::integral_constant<int, 1>(), i, j);
  }
}

template <class T, int K>
INLINE void all_logits(const Features<T, K>& features, const Chunk& chunk, T* logits) {
  for_tiles<4>(chunk, [&](auto queries, auto keys, int64_t i, int64_t j) {
    logits_tile<queries(), keys()>(features, chunk, i, j, logits);
  });
}

// 0 for the pairs of a chunk that are out of reach.
template <class T, int K>
INLINE void clear_beyond_reach(const Features<T, K>& features, const Chunk& chunk, T* pairs) {
  for (int64_t i = chunk.first_query; i < chunk.last_query; ++i) {
    for (int64_t j = chunk.first_key; j < features.first_key(i); ++j)
      store(pairs + pair(chunk, i, j) * kLanes<T>, Vector<T>{});
    for (int64_t j = features.last_key(i); j < chunk.last_key; ++j)
      store(pairs + pair(chunk, i, j) * kLanes<T>, Vector<T>{});
  }
}
