// SPDX-License-Identifier: Apache-2.0
// One pass over the keys with a running maximum and sum (online softmax), in AVX-512; scores are
// kept in base 2. bf16 is widened as it is packed: where there are no tiles, fp32 multiply-adds are
// faster than bf16 dot products.
//
// The keys of a (sequence, head) are packed once in panels [head_dim, 64 keys], so that scores of 6
// queries x 64 keys are 24 registers of multiply-adds; the values are packed too, since rows that are
// a power of two apart fight for the same lines of the cache. A tile is kRows queries; keys beyond
// its largest prefix are skipped. Tiles start at their sequence's first query, so a result does not
// depend on its batch.

#include "attend.h"

#if defined(__AVX512F__)

#include <immintrin.h>

#include <algorithm>
#include <limits>
#include <new>
#include <vector>

namespace feedsr {
namespace {

constexpr int kRows = 48;   // queries of a tile
constexpr int kStep = 6;    // of them in registers at once
constexpr int kPanel = 64;  // keys of a packed panel
constexpr int kKeys = 128;  // keys of a block
constexpr float kNone = -std::numeric_limits<float>::infinity();

constexpr float kLog2E = 1.44269504F;
constexpr float kLn2 = 0.693147181F;

// 2^x for x <= 0: a polynomial of the fraction, off by at most 2e-7, and `scalef`, which takes the
// power by itself. 2^-inf is exactly 0, the weight of a hidden key.
inline __m512 exp2_512(__m512 x) {
  const __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_set1_ps(1.893754001e-03F);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.949590847e-03F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.586033687e-02F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.401418239e-01F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.931545138e-01F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.999998808e-01F));
  return _mm512_scalef_ps(p, x);
}

// Weights below 2^-126 are 0 while this lives: arithmetic on them would be a hundred times slower.
class FlushDenormals {
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040U); }
  ~FlushDenormals() { _mm_setcsr(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned before_;
};

inline __m512 load16(const float* x) { return _mm512_loadu_ps(x); }
inline void store16(float* x, __m512 v) { _mm512_storeu_ps(x, v); }

// bf16 is the upper half of a float; stored rounded to nearest even, NaN kept.
inline __m512 load16(const Bf16* x) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline void store16(Bf16* x, __m512 v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  r = _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q),
                            _mm512_set1_epi32(0x7fc00000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(x),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
}

// Floats that start at a line of the cache, so that no load of 16 touches two.
class Lines {
 public:
  Lines() = default;
  ~Lines() { _mm_free(data_); }
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;

  float* of(std::int64_t count) {
    if (count > size_) {
      _mm_free(data_);
      size_ = 0;
      data_ = static_cast<float*>(_mm_malloc(static_cast<std::size_t>(count) * sizeof(float), 64));
      if (data_ == nullptr) {
        throw std::bad_alloc();
      }
      size_ = count;
    }
    return data_;
  }
  const float* data() const { return data_; }

 private:
  float* data_ = nullptr;
  std::int64_t size_ = 0;
};

// What a thread works in.
struct Scratch {
  Lines keys;    // [panels, head_dim, kPanel]
  Lines values;  // [keys, head_dim]
  alignas(64) float scores[kRows][kKeys];
  alignas(64) float q[kRows][128];
  alignas(64) float out[kRows][128];
  float max[kRows];
  float sum[kRows];
};

// Columns of 16 rows of 16: four rounds of interleaving halves.
inline void transpose16(__m512 (&x)[16]) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  for (int round = 0; round < 4; ++round) {
    __m512 y[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      y[2 * i] = _mm512_permutex2var_ps(x[i], low, x[i + 8]);
      y[2 * i + 1] = _mm512_permutex2var_ps(x[i], high, x[i + 8]);
    }
    std::copy(y, y + 16, x);
  }
}

// Packs the keys and values [start, start + length) of a head; the last block is filled with zeros.
template <class T>
void pack(const Problem<T>& p, std::int64_t start, std::int64_t length, std::int64_t head,
          Scratch& s) {
  const std::int64_t padded = (length + kKeys - 1) / kKeys * kKeys;
  float* keys = s.keys.of(p.head_dim * padded);
  float* values = s.values.of(p.head_dim * padded);
  for (std::int64_t t = 0; t < padded; t += 16) {
    for (std::int64_t d = 0; d < p.head_dim; d += 16) {
      __m512 x[16];
      for (int i = 0; i < 16; ++i) {
        const bool real = t + i < length;
        x[i] = real ? load16(p.k.at(start + t + i, head) + d) : _mm512_setzero_ps();
        const __m512 v = real ? load16(p.v.at(start + t + i, head) + d) : _mm512_setzero_ps();
        _mm512_store_ps(values + (t + i) * p.head_dim + d, v);
      }
      transpose16(x);
      float* column = keys + t / kPanel * kPanel * p.head_dim + t % kPanel + d * kPanel;
      for (int i = 0; i < 16; ++i) {
        _mm512_store_ps(column + i * kPanel, x[i]);
      }
    }
  }
}

// Scores of kStep queries over 64 keys.
inline void score(const float (*q)[128], const float* keys, std::int64_t dims,
                  float (*scores)[kKeys]) {
  __m512 s[kStep][4];
  for (auto& row : s) {
    for (auto& x : row) {
      x = _mm512_setzero_ps();
    }
  }
  for (std::int64_t d = 0; d < dims; ++d) {
    const float* column = keys + d * kPanel;
    const __m512 k0 = _mm512_loadu_ps(column);
    const __m512 k1 = _mm512_loadu_ps(column + 16);
    const __m512 k2 = _mm512_loadu_ps(column + 32);
    const __m512 k3 = _mm512_loadu_ps(column + 48);
#pragma GCC unroll 6
    for (int r = 0; r < kStep; ++r) {
      const __m512 x = _mm512_set1_ps(q[r][d]);
      s[r][0] = _mm512_fmadd_ps(x, k0, s[r][0]);
      s[r][1] = _mm512_fmadd_ps(x, k1, s[r][1]);
      s[r][2] = _mm512_fmadd_ps(x, k2, s[r][2]);
      s[r][3] = _mm512_fmadd_ps(x, k3, s[r][3]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kStep; ++r) {
    for (int j = 0; j < 4; ++j) {
      _mm512_store_ps(scores[r] + 16 * j, s[r][j]);
    }
  }
}

// out += weights @ values for kStep queries and VECS * 16 dimensions.
template <int VECS>
inline void add_values(const float (*weights)[kKeys], const float* v, std::int64_t stride,
                       int count, float (*out)[128]) {
  __m512 o[kStep][VECS];
#pragma GCC unroll 6
  for (int r = 0; r < kStep; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < VECS; ++j) {
      o[r][j] = _mm512_load_ps(out[r] + 16 * j);
    }
  }
  for (int t = 0; t < count; ++t, v += stride) {
    __m512 value[VECS];
#pragma GCC unroll 4
    for (int j = 0; j < VECS; ++j) {
      value[j] = _mm512_loadu_ps(v + 16 * j);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kStep; ++r) {
      const __m512 w = _mm512_set1_ps(weights[r][t]);
#pragma GCC unroll 4
      for (int j = 0; j < VECS; ++j) {
        o[r][j] = _mm512_fmadd_ps(w, value[j], o[r][j]);
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kStep; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < VECS; ++j) {
      _mm512_store_ps(out[r] + 16 * j, o[r][j]);
    }
  }
}

void add_all_values(const float (*weights)[kKeys], const float* v, int count, std::int64_t dims,
                    float (*out)[128]) {
  std::int64_t d = 0;
  for (; d + 64 <= dims; d += 64) {
    add_values<4>(weights, v + d, dims, count, reinterpret_cast<float(*)[128]>(&out[0][d]));
  }
  for (; d + 32 <= dims; d += 32) {
    add_values<2>(weights, v + d, dims, count, reinterpret_cast<float(*)[128]>(&out[0][d]));
  }
  for (; d + 16 <= dims; d += 16) {
    add_values<1>(weights, v + d, dims, count, reinterpret_cast<float(*)[128]>(&out[0][d]));
  }
}

// The scores of a row beyond `seen` become weights of zero; rescales what the row has so far.
void weigh(float* scores, int seen, float* out, float& max, float& sum, std::int64_t dims) {
  __m512 top = _mm512_set1_ps(kNone);
  for (int j = 0; seen == kKeys && j < kKeys; j += 16) {
    top = _mm512_max_ps(top, _mm512_load_ps(scores + j));
  }
  for (int j = 0; seen < kKeys && j < kKeys; j += 16) {
    const int left = std::min(std::max(seen - j, 0), 16);
    const auto mask = static_cast<__mmask16>((1U << left) - 1U);
    const __m512 s = _mm512_mask_mov_ps(_mm512_set1_ps(kNone), mask, _mm512_load_ps(scores + j));
    _mm512_store_ps(scores + j, s);
    top = _mm512_max_ps(top, s);
  }
  const float highest = std::max(max, _mm512_reduce_max_ps(top));
  if (highest == kNone) {
    for (int j = 0; j < kKeys; j += 16) {
      _mm512_store_ps(scores + j, _mm512_setzero_ps());
    }
    return;
  }
  const __m512 shift = _mm512_set1_ps(highest);
  __m512 total = _mm512_setzero_ps();
  for (int j = 0; j < kKeys; j += 16) {
    const __m512 w = exp2_512(_mm512_sub_ps(_mm512_load_ps(scores + j), shift));
    _mm512_store_ps(scores + j, w);
    total = _mm512_add_ps(total, w);
  }
  float kept = 1.0F;
  if (highest > max) {
    kept = _mm512_cvtss_f32(exp2_512(_mm512_set1_ps(max - highest)));
    for (std::int64_t d = 0; d < dims; d += 16) {
      const __m512 o = _mm512_mul_ps(_mm512_load_ps(out + d), _mm512_set1_ps(kept));
      _mm512_store_ps(out + d, o);
    }
  }
  sum = sum * kept + _mm512_reduce_add_ps(total);
  max = highest;
}

// One more key and value of a row, outside the prefix.
template <class T>
void add_own(const float* q, const T* key, const T* value, std::int64_t dims, float* out,
             float& max, float& sum) {
  __m512 dot = _mm512_setzero_ps();
  for (std::int64_t d = 0; d < dims; d += 16) {
    dot = _mm512_fmadd_ps(_mm512_load_ps(q + d), load16(key + d), dot);
  }
  const float s = _mm512_reduce_add_ps(dot);
  const float highest = std::max(max, s);
  const float kept = _mm512_cvtss_f32(exp2_512(_mm512_set1_ps(max - highest)));
  const float weight = _mm512_cvtss_f32(exp2_512(_mm512_set1_ps(s - highest)));
  for (std::int64_t d = 0; d < dims; d += 16) {
    const __m512 o = _mm512_mul_ps(_mm512_load_ps(out + d), _mm512_set1_ps(kept));
    const __m512 v = load16(value + d);
    _mm512_store_ps(out + d, _mm512_fmadd_ps(_mm512_set1_ps(weight), v, o));
  }
  sum = sum * kept + weight;
  max = highest;
}

// The queries [first, first + count) of a sequence and a head.
struct Tile {
  std::int64_t query;     // first row in the packed queries
  int count;              // rows
  std::int64_t key;       // the sequence's first key
  std::int64_t position;  // of the first row among the sequence's keys; its length for candidates
  std::int64_t head;
};

template <class T>
std::int64_t prefix_of(const Problem<T>& p, const Tile& tile, int row) {
  if (!p.causal) {
    return tile.position;
  }
  const std::int64_t at = tile.position + row;
  return p.prefix == nullptr ? at / p.group * p.group : p.prefix[tile.query + row];
}

template <class T>
void finish_row(const Problem<T>& p, const Tile& tile, int row, Scratch& s) {
  const std::int64_t query = tile.query + row;
  const std::int64_t dims = p.head_dim;
  if (p.causal) {
    const std::int64_t at = tile.position + row;
    for (std::int64_t t = at / p.group * p.group; t <= at; ++t) {
      add_own(s.q[row], p.k.at(tile.key + t, tile.head), p.v.at(tile.key + t, tile.head), dims,
              s.out[row], s.max[row], s.sum[row]);
    }
  } else {
    add_own(s.q[row], p.k_self.at(query, tile.head), p.v_self.at(query, tile.head), dims,
            s.out[row], s.max[row], s.sum[row]);
  }
  T* out = p.out + (query * p.heads + tile.head) * dims;
  const __m512 share = _mm512_set1_ps(1.0F / s.sum[row]);
  for (std::int64_t d = 0; d < dims; d += 16) {
    store16(out + d, _mm512_mul_ps(_mm512_load_ps(s.out[row] + d), share));
  }
  p.lse[query * p.heads + tile.head] = s.max[row] * kLn2 + __builtin_logf(s.sum[row]);
}

// kStep queries from row r on over the keys [first, first + count).
void attend_block(std::int64_t first, int count, std::int64_t dims, const std::int64_t* prefix,
                  int r, Scratch& s) {
  for (int j = 0; j < count; j += kPanel) {
    score(s.q + r, s.keys.data() + (first + j) * dims, dims,
          reinterpret_cast<float(*)[kKeys]>(&s.scores[r][j]));
  }
  for (int i = 0; i < kStep; ++i) {
    const auto seen = std::min<std::int64_t>(std::max<std::int64_t>(prefix[i] - first, 0), count);
    weigh(s.scores[r + i], static_cast<int>(seen), s.out[r + i], s.max[r + i], s.sum[r + i], dims);
  }
  add_all_values(s.scores + r, s.values.data() + first * dims, count, dims, s.out + r);
}

template <class T>
void attend_tile(const Problem<T>& p, const Tile& tile, Scratch& s) {
  std::int64_t prefix[kRows] = {};
  std::int64_t furthest = 0;
  for (int r = 0; r < kRows; ++r) {
    const T* q = r < tile.count ? p.q.at(tile.query + r, tile.head) : nullptr;
    for (std::int64_t d = 0; d < p.head_dim; d += 16) {
      const __m512 x = q == nullptr ? _mm512_setzero_ps() : load16(q + d);
      _mm512_store_ps(s.q[r] + d, _mm512_mul_ps(x, _mm512_set1_ps(p.scale * kLog2E)));
      _mm512_store_ps(s.out[r] + d, _mm512_setzero_ps());
    }
    s.max[r] = kNone;
    s.sum[r] = 0.0F;
    prefix[r] = r < tile.count ? prefix_of(p, tile, r) : 0;
    furthest = std::max(furthest, prefix[r]);
  }
  for (std::int64_t first = 0; first < furthest; first += kKeys) {
    for (int r = 0; r < tile.count; r += kStep) {
      const std::int64_t reach = *std::max_element(prefix + r, prefix + r + kStep);
      const auto count = static_cast<int>(std::min<std::int64_t>(kKeys, reach - first));
      if (count > 0) {
        attend_block(first, count, p.head_dim, prefix + r, r, s);
      }
    }
  }
  for (int r = 0; r < tile.count; ++r) {
    finish_row(p, tile, r, s);
  }
}

// Some of the queries of one sequence and head: a work item. Starts at a tile.
struct Item {
  std::int64_t sequence;
  std::int64_t head;
  std::int64_t first;  // of the sequence's queries
  std::int64_t last;
};

template <class T>
void attend_item(const Problem<T>& p, const Item& item, Scratch& s) {
  const std::int64_t start = p.cu_queries[item.sequence];
  const std::int64_t queries = p.cu_queries[item.sequence + 1] - start;
  const std::int64_t key = p.cu_keys[item.sequence];
  const std::int64_t length = p.cu_keys[item.sequence + 1] - key;
  const std::int64_t reach = p.causal ? length - queries + item.last : length;
  pack(p, key, reach, item.head, s);
  for (std::int64_t first = item.first; first < item.last; first += kRows) {
    Tile tile{};
    tile.query = start + first;
    tile.count = static_cast<int>(std::min<std::int64_t>(kRows, item.last - first));
    tile.key = key;
    tile.position = p.causal ? length - queries + first : length;
    tile.head = item.head;
    attend_tile(p, tile, s);
  }
}

// One item a (sequence, head), or several where that would leave threads without work.
template <class T>
std::vector<Item> items_of(const Problem<T>& p) {
  const std::int64_t pairs = p.sequences * p.heads;
  const bool even = p.threads == 1 || pairs >= 4 * p.threads || pairs % p.threads == 0;
  const std::int64_t parts = even ? 1 : (4 * p.threads + pairs - 1) / pairs;
  std::vector<Item> items;
  for (std::int64_t s = 0; s < p.sequences; ++s) {
    const std::int64_t queries = p.cu_queries[s + 1] - p.cu_queries[s];
    const std::int64_t tiles = (queries + kRows - 1) / kRows;
    const std::int64_t size = (tiles + parts - 1) / parts * kRows;
    for (std::int64_t h = 0; h < p.heads; ++h) {
      for (std::int64_t first = 0; first < queries; first += size) {
        items.push_back({s, h, first, std::min(first + size, queries)});
      }
    }
  }
  return items;
}

}  // namespace

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

template <class T>
void attend_avx512(const Problem<T>& p) {
  const std::vector<Item> items = items_of(p);
  const auto count = static_cast<std::int64_t>(items.size());
#pragma omp parallel num_threads(p.threads) if (p.threads > 1 && count > 1)
  {
    const FlushDenormals flush;
    Scratch scratch;
#pragma omp for schedule(dynamic)
    for (std::int64_t i = 0; i < count; ++i) {
      attend_item(p, items[static_cast<std::size_t>(i)], scratch);
    }
  }
}

template void attend_avx512(const Problem<float>&);
template void attend_avx512(const Problem<Bf16>&);

}  // namespace feedsr

#else

namespace feedsr {
bool has_avx512() { return false; }
template <class T>
void attend_avx512(const Problem<T>&) {}
template void attend_avx512(const Problem<float>&);
template void attend_avx512(const Problem<Bf16>&);
}  // namespace feedsr

#endif
