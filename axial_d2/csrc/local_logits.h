// Query and key of a band, and their logits, a tile of queries at a time.

template <class T>
class LocalLogits {
 public:
  LocalLogits(
      const LocalLogitsArguments<T>& arguments, const Planes<T>& planes, Workspace& workspace)
      : arguments_(arguments),
        planes_(planes),
        query_(workspace.take<T>(channels() * planes.query_plane)),
        query_content_(workspace.take<T>(channels() * planes.query_plane)),
        key_(workspace.take<T>(channels() * planes.key_plane)),
        query_table_(workspace.take<T>(planes.shape.offsets() * channels())),
        key_table_(workspace.take<T>(planes.shape.offsets() * channels())),
        border_(workspace.take<T>(planes.key_plane)) {}

  void fill(const Band& band) {
    const LocalShape& shape = planes_.shape;
    for (int term = 0; term < 3; ++term)
      scale_[term] = arguments_.scale[term * shape.heads + band.group % shape.heads];
    planes_.lay_queries(arguments_.query, band, channels(), query_);
    planes_.lay_keys(arguments_.key, band, channels(), key_);
    for (int64_t at = 0; at < channels() * planes_.query_plane; ++at)
      query_content_[at] = scale_[0] * query_[at];
    for (int64_t at = 0; at < shape.offsets() * channels(); ++at) {
      if (has_query_table()) query_table_[at] = scale_[1] * arguments_.tables.query[at];
      if (has_key_table()) key_table_[at] = scale_[2] * arguments_.tables.key[at];
    }
    std::fill(border_, border_ + planes_.key_plane, kOutside<T>);
    planes_.for_key_rows(band, [&](int64_t position, int64_t) {
      std::fill(border_ + position, border_ + position + shape.width, T(0));
    });
  }

  // Logits of the tile that begins with query i, [D, tile], kOutside for keys outside.
  void compute(int64_t i, T* logits) const {
    in_fours(planes_.shape.offsets(), [&](auto count, int64_t offset) {
      Vector<T> sums[count()][kVectors];
      for (int o = 0; o < count(); ++o)
        for (int u = 0; u < kVectors; ++u) sums[o][u] = load(border_ + key(offset + o, i, u));
      if (has_query_key()) add_query_key(sums, query_content_, offset, i);
      if (has_query_table()) add_query_position(sums, query_table_, offset, i);
      if (has_key_table()) add_key_position(sums, key_table_, offset, i);
      for (int o = 0; o < count(); ++o)
        for (int u = 0; u < kVectors; ++u)
          store(logits + (offset + o) * kTile<T> + u * kLanes<T>, sums[o][u]);
    });
  }

  // One term of some offsets, without its scale: 0 for keys outside, but not q.r.
  template <int Count>
  INLINE void compute_term(int term, int64_t offset, int64_t i, Vector<T> (&sums)[Count][kVectors])
      const {
    for (auto& row : sums)
      for (auto& sum : row) sum = Vector<T>{};
    if (term == 0) add_query_key(sums, query_, offset, i);
    if (term == 1) add_query_position(sums, arguments_.tables.query, offset, i);
    if (term == 2) add_key_position(sums, arguments_.tables.key, offset, i);
  }

  bool has(int term) const {
    return term == 0 ? has_query_key() : term == 1 ? has_query_table() : has_key_table();
  }
  bool has_query_key() const { return arguments_.query_key; }
  bool has_query_table() const { return arguments_.tables.query; }
  bool has_key_table() const { return arguments_.tables.key; }
  int64_t channels() const { return planes_.shape.key_channels; }
  T scale(int term) const { return scale_[term]; }
  // Whether a key is inside, 0 if so: of an offset from a vector of queries.
  Vector<T> border(int64_t offset, int64_t i, int vector) const {
    return load(border_ + key(offset, i, vector));
  }
  const T* query() const { return query_; }                  // [K, query plane]
  const T* query_content() const { return query_content_; }  // s_0 q, [K, query plane]
  const T* key() const { return key_; }                      // [K, key plane]
  const T* key_table() const { return key_table_; }          // s_2 r^k, [D, K]
  const LocalTables<const T>& tables() const { return arguments_.tables; }

 private:
  int64_t key(int64_t offset, int64_t i, int vector) const {
    return i + planes_.shifts[offset] + vector * kLanes<T>;
  }
  int64_t query(int64_t i, int vector) const {
    return planes_.margin + i + vector * kLanes<T>;
  }

  template <int Count>
  INLINE void add_query_key(
      Vector<T> (&sums)[Count][kVectors], const T* queries, int64_t offset, int64_t i) const {
    for (int64_t c = 0; c < channels(); ++c) {
      const T *of_query = queries + c * planes_.query_plane, *keys = key_ + c * planes_.key_plane;
      for (int u = 0; u < kVectors; ++u) {
        const Vector<T> feature = load(of_query + query(i, u));
        for (int o = 0; o < Count; ++o) sums[o][u] += feature * load(keys + key(offset + o, i, u));
      }
    }
  }

  template <int Count>
  INLINE void add_query_position(
      Vector<T> (&sums)[Count][kVectors], const T* table, int64_t offset, int64_t i) const {
    for (int64_t c = 0; c < channels(); ++c) {
      const T* of_query = query_ + c * planes_.query_plane;
      for (int u = 0; u < kVectors; ++u) {
        const Vector<T> feature = load(of_query + query(i, u));
        for (int o = 0; o < Count; ++o)
          sums[o][u] += feature * table[(offset + o) * channels() + c];
      }
    }
  }

  template <int Count>
  INLINE void add_key_position(
      Vector<T> (&sums)[Count][kVectors], const T* table, int64_t offset, int64_t i) const {
    for (int64_t c = 0; c < channels(); ++c) {
      const T* keys = key_ + c * planes_.key_plane;
      for (int o = 0; o < Count; ++o)
        for (int u = 0; u < kVectors; ++u)
          sums[o][u] += load(keys + key(offset + o, i, u)) * table[(offset + o) * channels() + c];
    }
  }

  const LocalLogitsArguments<T>& arguments_;
  const Planes<T>& planes_;
  T scale_[3];
  T *query_, *query_content_, *key_;
  T *query_table_, *key_table_;  // [D, K], scaled
  T* border_;                    // [key plane], 0 inside, kOutside elsewhere
};
