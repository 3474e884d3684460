// From the gradients of the logit terms in a window to those of query, key, tables and scales.
// Gradients of pairs are [D, query plane], 0 in the padding. What adds up over queries is read
// from the key's side, so that nothing is stored and loaded again at another shift.

// sum_i g_ij x_i for a tile of keys j and some channels of x.
template <class T, int Count>
INLINE void add_to_keys(
    const Planes<T>& planes, const T* pairs, const T* features, int64_t j, T* to) {
  Vector<T> sums[Count][kVectors];
  for (int c = 0; c < Count; ++c)
    for (int u = 0; u < kVectors; ++u)
      sums[c][u] = load(to + c * planes.key_plane + j + u * kLanes<T>);
  for (int64_t offset = 0; offset < planes.shape.offsets(); ++offset)
    for (int u = 0; u < kVectors; ++u) {
      const int64_t i = planes.margin + j - planes.shifts[offset] + u * kLanes<T>;
      const Vector<T> pair = load(pairs + offset * planes.query_plane + i);
      for (int c = 0; c < Count; ++c)
        sums[c][u] += pair * load(features + c * planes.query_plane + i);
    }
  for (int c = 0; c < Count; ++c)
    for (int u = 0; u < kVectors; ++u)
      store(to + c * planes.key_plane + j + u * kLanes<T>, sums[c][u]);
}

// sum_i g_ij r_{j-i}, likewise.
template <class T, int Count>
INLINE void add_embeddings_to_keys(
    const Planes<T>& planes, const T* pairs, const T* table, int64_t channels, int64_t j, T* to) {
  Vector<T> sums[Count][kVectors];
  for (int c = 0; c < Count; ++c)
    for (int u = 0; u < kVectors; ++u)
      sums[c][u] = load(to + c * planes.key_plane + j + u * kLanes<T>);
  for (int64_t offset = 0; offset < planes.shape.offsets(); ++offset)
    for (int u = 0; u < kVectors; ++u) {
      const int64_t i = planes.margin + j - planes.shifts[offset] + u * kLanes<T>;
      const Vector<T> pair = load(pairs + offset * planes.query_plane + i);
      for (int c = 0; c < Count; ++c) sums[c][u] += pair * table[offset * channels + c];
    }
  for (int c = 0; c < Count; ++c)
    for (int u = 0; u < kVectors; ++u)
      store(to + c * planes.key_plane + j + u * kLanes<T>, sums[c][u]);
}

// table[d, c] += sum_i g_i,i+d x_i, of queries.
template <class T>
void add_query_sums(
    const Planes<T>& planes, const Band& band, const T* pairs, const T* features,
    int64_t channels, T* table) {
  const int64_t end = planes.queries_of(band);
  in_fours(planes.shape.offsets(), [&](auto offsets, int64_t offset) {
    in_fours(channels, [&](auto count, int64_t channel) {
      Vector<T> sums[offsets()][count()]{};
      for (int64_t i = planes.margin; i < planes.margin + end; i += kLanes<T>) {
        Vector<T> feature[count()];
        for (int c = 0; c < count(); ++c)
          feature[c] = load(features + (channel + c) * planes.query_plane + i);
        for (int o = 0; o < offsets(); ++o) {
          const Vector<T> pair = load(pairs + (offset + o) * planes.query_plane + i);
          for (int c = 0; c < count(); ++c) sums[o][c] += pair * feature[c];
        }
      }
      for (int o = 0; o < offsets(); ++o)
        for (int c = 0; c < count(); ++c)
          table[(offset + o) * channels + channel + c] += sum_of_lanes<T>(sums[o][c]);
    });
  });
}

// table[d, c] += sum_i g_i,i+d y_i+d, of keys.
template <class T>
void add_key_sums(
    const Planes<T>& planes, const Band& band, const T* pairs, const T* features,
    int64_t channels, T* table) {
  const int64_t end = planes.queries_of(band);
  for (int64_t offset = 0; offset < planes.shape.offsets(); ++offset)
    in_fours(channels, [&](auto count, int64_t channel) {
      const T* of_offset = pairs + offset * planes.query_plane + planes.margin;
      const T* shifted = features + channel * planes.key_plane + planes.shifts[offset];
      Vector<T> sums[count()]{};
      for (int64_t i = 0; i < end; i += kLanes<T>) {
        const Vector<T> pair = load(of_offset + i);
        for (int c = 0; c < count(); ++c) sums[c] += pair * load(shifted + c * planes.key_plane + i);
      }
      for (int c = 0; c < count(); ++c)
        table[offset * channels + channel + c] += sum_of_lanes<T>(sums[c]);
    });
}

template <class T>
class LocalFeatureGradients {
 public:
  LocalFeatureGradients(
      const LocalLogits<T>& logits, const Planes<T>& planes, Workspace& workspace)
      : logits_(logits),
        planes_(planes),
        query_(workspace.take<T>(logits.channels() * planes.query_plane)),
        key_(workspace.take<T>(logits.channels() * planes.key_plane)),
        query_sums_(workspace.take<T>(table_size())),
        key_sums_(workspace.take<T>(table_size())) {}

  // Of one band, written to the gradients of query and key and added to the tables' and scales'.
  // The three may be the same memory.
  void add(
      const Band& band, const T* const (&terms)[3], const LocalStrided<T>& grad_query,
      const LocalStrided<T>& grad_key, const LocalSums<T>& sums) {
    const int64_t channels = logits_.channels();
    std::fill(key_, key_ + channels * planes_.key_plane, T(0));
    Vector<T> of_content{};
    in_fours(channels, [&](auto count, int64_t c) {
      for (int64_t i = 0; i < planes_.queries_of(band); i += kTile<T>)
        query<count()>(terms, i, c, of_content);
      T* keys = key_ + c * planes_.key_plane;
      for (int64_t j = 0; j < planes_.keys_of(band); j += kTile<T>) {
        if (logits_.has_query_key())
          add_to_keys<T, count()>(
              planes_, terms[0], logits_.query_content() + c * planes_.query_plane, j, keys);
        if (logits_.has_key_table())
          add_embeddings_to_keys<T, count()>(
              planes_, terms[2], logits_.key_table() + c, channels, j, keys);
      }
    });
    planes_.write_queries(grad_query, band, channels, query_);
    planes_.add_keys(grad_key, band, channels, key_);
    add_tables(band, terms, sums);
    if (sums.scale)
      sums.scale[band.group % planes_.shape.heads] += sum_of_lanes<T>(of_content);
  }

 private:
  // dq_i = s_0 sum_j g_ij k_j + s_1 sum_j g_ij r^q_{j-i}
  template <int Count>
  INLINE void query(
      const T* const (&terms)[3], int64_t i, int64_t channel, Vector<T>& of_content) {
    const int64_t channels = logits_.channels();
    Vector<T> content[Count][kVectors]{}, position[Count][kVectors]{};
    const T* keys = logits_.key() + channel * planes_.key_plane + i;
    const T* table = logits_.has_query_table() ? logits_.tables().query + channel : nullptr;
    for (int64_t offset = 0; offset < planes_.shape.offsets(); ++offset)
      for (int u = 0; u < kVectors; ++u) {
        const int64_t at = offset * planes_.query_plane + planes_.margin + i + u * kLanes<T>;
        if (logits_.has_query_key()) {
          const Vector<T> pair = load(terms[0] + at);
          const T* shifted = keys + planes_.shifts[offset] + u * kLanes<T>;
          for (int c = 0; c < Count; ++c)
            content[c][u] += pair * load(shifted + c * planes_.key_plane);
        }
        if (logits_.has_query_table()) {
          const Vector<T> pair = load(terms[1] + at);
          for (int c = 0; c < Count; ++c) position[c][u] += pair * table[offset * channels + c];
        }
      }
    for (int c = 0; c < Count; ++c)
      for (int u = 0; u < kVectors; ++u) {
        const int64_t at =
            (channel + c) * planes_.query_plane + planes_.margin + i + u * kLanes<T>;
        of_content += content[c][u] * load(logits_.query() + at);
        store(query_ + at, content[c][u] * logits_.scale(0) + position[c][u] * logits_.scale(1));
      }
  }

  void add_tables(const Band& band, const T* const (&terms)[3], const LocalSums<T>& sums) {
    const int64_t channels = logits_.channels(), heads = planes_.shape.heads;
    const int64_t head = band.group % heads;
    if (logits_.has_query_table()) {
      std::fill(query_sums_, query_sums_ + table_size(), T(0));
      add_query_sums(planes_, band, terms[1], logits_.query(), channels, query_sums_);
      add_sums(
          query_sums_, 1, logits_.tables().query, sums.tables.query,
          sums.scale ? sums.scale + heads + head : nullptr);
    }
    if (logits_.has_key_table()) {
      std::fill(key_sums_, key_sums_ + table_size(), T(0));
      add_key_sums(planes_, band, terms[2], logits_.key(), channels, key_sums_);
      add_sums(
          key_sums_, 2, logits_.tables().key, sums.tables.key,
          sums.scale ? sums.scale + 2 * heads + head : nullptr);
    }
  }

  // Sums before their scale; its own gradient is their product with the embeddings.
  void add_sums(const T* sums, int term, const T* table, T* total, double* of_scale) const {
    for (int64_t at = 0; at < table_size(); ++at) {
      total[at] += logits_.scale(term) * sums[at];
      if (of_scale) *of_scale += sums[at] * table[at];
    }
  }

  int64_t table_size() const { return planes_.shape.offsets() * logits_.channels(); }

  const LocalLogits<T>& logits_;
  const Planes<T>& planes_;
  T* query_;                    // [K, query plane]
  T* key_;                      // [K, key plane]
  T *query_sums_, *key_sums_;  // [D, K]
};
