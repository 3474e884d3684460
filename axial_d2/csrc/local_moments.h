// Sums of the logit terms in a window and of their squares, and the gradients of these.

template <class T>
class LocalMoments {
 public:
  LocalMoments(const LocalLogitsArguments<T>& arguments, int64_t rows)
      : planes_(arguments.shape, rows, workspace_),
        logits_(arguments, planes_, workspace_),
        queries_(workspace_.take<T>(planes_.query_plane)) {}

  void compute(const Band& band, double* sums) {
    logits_.fill(band);
    mark_queries(planes_, band, queries_);
    const int64_t heads = planes_.shape.heads, head = band.group % heads;
    for (int term = 0; term < 3; ++term) {
      if (!logits_.has(term)) continue;
      for (int64_t i = 0; i < planes_.queries_of(band); i += kTile<T>)
        add_tile(term, i, sums + term * heads + head, sums + (3 + term) * heads + head);
    }
  }

  // 1 for queries in the image, [query plane].
  static void mark_queries(const Planes<T>& planes, const Band& band, T* queries) {
    std::fill(queries, queries + planes.query_plane, T(0));
    planes.for_query_rows(band, [&](int64_t position, int64_t) {
      std::fill(queries + position, queries + position + planes.shape.width, T(1));
    });
  }

  // Whether both are in the image, query and key.
  static INLINE auto inside(
      const LocalLogits<T>& logits, const T* queries, const Planes<T>& planes, int64_t offset,
      int64_t i, int vector) {
    return load(queries + planes.margin + i + vector * kLanes<T>) +
               logits.border(offset, i, vector) > T(0);
  }

 private:
  // A tile's are summed in the tensor's precision, about a logit that is typical of it, tiles in
  // double and about 0: so E[x^2] - E[x]^2 does not cancel where the mean is large.
  void add_tile(int term, int64_t i, double* sum, double* squares) {
    const T center = typical(term, i);
    Vector<T> count{}, of_tile{}, squares_of_tile{};
    in_fours(planes_.shape.offsets(), [&](auto offsets, int64_t offset) {
      Vector<T> logits[offsets()][kVectors];
      logits_.compute_term(term, offset, i, logits);
      for (int o = 0; o < offsets(); ++o)
        for (int u = 0; u < kVectors; ++u) {
          const auto is_inside = inside(logits_, queries_, planes_, offset + o, i, u);
          const Vector<T> deviation = is_inside ? logits[o][u] - center : Vector<T>{};
          count += is_inside ? Vector<T>{} + T(1) : Vector<T>{};
          of_tile += deviation;
          squares_of_tile += deviation * deviation;
        }
    });
    const double number = sum_of_lanes<T>(count), deviations = sum_of_lanes<T>(of_tile);
    *sum += deviations + number * center;
    *squares += sum_of_lanes<T>(squares_of_tile) + 2.0 * center * deviations +
                number * center * center;
  }

  // The mean of what the tile's queries give at offset 0, their own place.
  T typical(int term, int64_t i) const {
    const int64_t offset = planes_.shape.offsets() / 2;
    Vector<T> logits[1][kVectors], count{}, sum{};
    logits_.compute_term(term, offset, i, logits);
    for (int u = 0; u < kVectors; ++u) {
      const auto is_inside = inside(logits_, queries_, planes_, offset, i, u);
      count += is_inside ? Vector<T>{} + T(1) : Vector<T>{};
      sum += is_inside ? logits[0][u] : Vector<T>{};
    }
    return sum_of_lanes<T>(sum) / std::max(T(1), sum_of_lanes<T>(count));
  }

  Workspace workspace_;
  Planes<T> planes_;
  LocalLogits<T> logits_;
  T* queries_;
};

template <class T>
class LocalMomentsBackward {
 public:
  LocalMomentsBackward(const LocalMomentsBackwardArguments<T>& arguments, int64_t rows)
      : arguments_(arguments),
        planes_(arguments.logits.shape, rows, workspace_),
        logits_(arguments.logits, planes_, workspace_),
        gradients_(logits_, planes_, workspace_),
        queries_(workspace_.take<T>(planes_.query_plane)) {
    for (int term = 0; term < 3; ++term)
      if (logits_.has(term))
        terms_[term] = workspace_.take<T>(planes_.shape.offsets() * planes_.query_plane);
  }

  void compute(const Band& band, const LocalTables<T>& tables) {
    logits_.fill(band);
    LocalMoments<T>::mark_queries(planes_, band, queries_);
    const int64_t heads = planes_.shape.heads, head = band.group % heads;
    for (int term = 0; term < 3; ++term) {
      if (!logits_.has(term)) continue;
      const T constant = arguments_.offset[term * heads + head];
      const T slope = arguments_.slope[term * heads + head];
      // To the end of the plane: an earlier band may have been longer.
      for (int64_t i = 0; i < planes_.queries; i += kTile<T>)
        in_fours(planes_.shape.offsets(), [&](auto count, int64_t offset) {
          Vector<T> logits[count()][kVectors];
          logits_.compute_term(term, offset, i, logits);
          for (int o = 0; o < count(); ++o)
            for (int u = 0; u < kVectors; ++u)
              store(
                  terms_[term] + (offset + o) * planes_.query_plane + planes_.margin + i +
                      u * kLanes<T>,
                  LocalMoments<T>::inside(logits_, queries_, planes_, offset + o, i, u)
                      ? logits[o][u] * slope + constant : Vector<T>{});
        });
    }
    gradients_.add(
        band, {terms_[0], terms_[1], terms_[2]}, arguments_.grad_query, arguments_.grad_key,
        {tables, nullptr});
  }

 private:
  const LocalMomentsBackwardArguments<T>& arguments_;
  Workspace workspace_;
  Planes<T> planes_;
  LocalLogits<T> logits_;
  LocalFeatureGradients<T> gradients_;
  T* queries_;
  T* terms_[3]{};  // [D, query plane], null for an absent term
};
