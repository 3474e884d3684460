// Images laid out row behind row, a plane a channel: lanes are neighbouring queries, and the keys
// at one offset from all of them are the same plane, shifted. (ops/local_attention/README.md has a
// picture.) Nothing is added across lanes, and no window is ever copied.

// Queries of a tile: their logits stay in the nearest cache, and an embedding is spread over two
// vectors.
constexpr int kVectors = 2;
template <class T>
constexpr int kTile = kVectors * kLanes<T>;
// The logit of a key outside of the image: finite, since 0 times it must be 0.
template <class T>
constexpr T kOutside = T(-1e30);

// Where queries and keys of a band lie. Planes of queries have room before and behind for whoever
// reads them from a key.
template <class T>
struct Planes {
  const LocalShape& shape;
  int64_t rows;  // of a band, at most
  int64_t margin, queries, query_plane, key_plane;
  int64_t* shifts;  // [D]

  Planes(const LocalShape& of, int64_t rows_of_band, Workspace& workspace)
      : shape(of),
        rows(rows_of_band),
        margin(of.largest_shift()),
        queries(whole_tiles(rows * of.pitch())),
        query_plane(queries + 2 * margin + kTile<T>),
        key_plane(whole_tiles(queries + margin)),
        shifts(workspace.take<int64_t>(of.offsets())) {
    for (int64_t offset = 0; offset < of.offsets(); ++offset) shifts[offset] = of.shift(offset);
  }

  static int64_t whole_tiles(int64_t positions) {
    return (positions + kTile<T> - 1) / kTile<T> * kTile<T>;
  }

  int64_t queries_of(const Band& band) const { return whole_tiles(band.rows() * shape.pitch()); }
  int64_t keys_of(const Band& band) const {
    return whole_tiles(band.rows() * shape.pitch() + margin);
  }

  // Calls work(position, row) for the first pixel of each of the band's rows.
  template <class Work>
  void for_query_rows(const Band& band, const Work& work) const {
    for (int64_t row = band.first_row; row < band.last_row; ++row)
      work(margin + (row - band.first_row) * shape.pitch(), row);
  }
  // The same for the rows of keys that the band reaches and the image has.
  template <class Work>
  void for_key_rows(const Band& band, const Work& work) const {
    const int64_t above = band.first_row - shape.row_reach;
    const int64_t first = std::max<int64_t>(0, above);
    const int64_t last = std::min(shape.height, band.last_row + shape.row_reach);
    for (int64_t row = first; row < last; ++row)
      work((row - above) * shape.pitch() + shape.column_reach, row);
  }

  // [channels, query_plane], zero in the padding.
  void lay_queries(
      const LocalStrided<const T>& from, const Band& band, int64_t channels, T* to) const {
    std::fill(to, to + channels * query_plane, T(0));
    for_query_rows(band, [&](int64_t position, int64_t row) {
      lay_row(from, band.group, row, channels, query_plane, to + position);
    });
  }
  // [channels, key_plane], zero in the padding.
  void lay_keys(
      const LocalStrided<const T>& from, const Band& band, int64_t channels, T* to) const {
    std::fill(to, to + channels * key_plane, T(0));
    for_key_rows(band, [&](int64_t position, int64_t row) {
      lay_row(from, band.group, row, channels, key_plane, to + position);
    });
  }
  void write_queries(
      const LocalStrided<T>& to, const Band& band, int64_t channels, const T* from) const {
    for_query_rows(band, [&](int64_t position, int64_t row) {
      T* pixels = to.of_group(shape, band.group) + row * to.row;
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t x = 0; x < shape.width; ++x)
          pixels[x * to.column + c * to.channel] = from[c * query_plane + position + x];
    });
  }
  void add_keys(
      const LocalStrided<T>& to, const Band& band, int64_t channels, const T* from) const {
    for_key_rows(band, [&](int64_t position, int64_t row) {
      T* pixels = to.of_group(shape, band.group) + row * to.row;
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t x = 0; x < shape.width; ++x)
          pixels[x * to.column + c * to.channel] += from[c * key_plane + position + x];
    });
  }

 private:
  void lay_row(
      const LocalStrided<const T>& from, int64_t group, int64_t row, int64_t channels,
      int64_t plane, T* to) const {
    const T* pixels = from.of_group(shape, group) + row * from.row;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t x = 0; x < shape.width; ++x)
        to[c * plane + x] = pixels[x * from.column + c * from.channel];
  }
};

// Calls work(count, first) for all of `total`, four, two or one at a time; the count is a constant.
template <class Work>
INLINE void in_fours(int64_t total, const Work& work) {
  int64_t at = 0;
  for (; at + 4 <= total; at += 4) work(std::integral_constant<int, 4>(), at);
  if (at + 2 <= total) {
    work(std::integral_constant<int, 2>(), at);
    at += 2;
  }
  if (at < total) work(std::integral_constant<int, 1>(), at);
}
