// Products of rows with an interleaved matrix. Every output is one chain of multiply-adds in the
// order of its inputs, however many rows and columns are computed together: a row's bits do not
// depend on the batch.

// How each precision loads 64 bytes of weights, loads `group` inputs, and adds their product.
// OFFSET is what weights are stored above their value.
struct Float32 {
    using Acc = Vec;
    using Weights = Vec;
    using Input = float;
    static constexpr int GROUP = 1;
    static Weights weights(const uint8_t* p) { return load(reinterpret_cast<const float*>(p)); }
    static Input input(const uint8_t* line, int step) {
        return reinterpret_cast<const float*>(line)[step];
    }
    static Acc start(const Rows&, int64_t) { return Acc{}; }
    static Acc add(Acc acc, Weights w, Input x) { return acc + w * x; }
    static Vec finish(Acc acc, const Matrix&, const Rows&, int64_t, int) { return acc; }
};

struct BFloat16 {
    using Acc = Vec;
    using Weights = IVec;
    using Input = int32_t;
    static constexpr int GROUP = 2;
    static Weights weights(const uint8_t* p) { return *reinterpret_cast<const IVec*>(p); }
    static Input input(const uint8_t* line, int step) {
        Input pair;
        std::memcpy(&pair, line + step * 4, 4);
        return pair;
    }
    static Acc start(const Rows&, int64_t) { return Acc{}; }
#ifdef USE_AVX512BF16
    static Acc add(Acc acc, Weights w, Input x) {
        return (Acc)_mm512_dpbf16_ps((__m512)acc, (__m512bh)(__m512i)w,
                                     (__m512bh)_mm512_set1_epi32(x));
    }
#else
    static Acc add(Acc acc, Weights w, Input x) {
        const IVec xs = IVec{} + x;
        acc = acc + (Vec)(w << 16) * (Vec)(xs << 16);
        return acc + (Vec)(w & int32_t(0xffff0000)) * (Vec)(xs & int32_t(0xffff0000));
    }
#endif
    static Vec finish(Acc acc, const Matrix&, const Rows&, int64_t, int) { return acc; }
};

// 4 inputs of 16 outputs: weights are unsigned, 128 above their value, inputs are signed.
struct Bytes {
#ifdef USE_AVX512VNNI
    using Weights = IVec;
    static constexpr int OFFSET = 128;
    static Weights weights(const uint8_t* p) { return *reinterpret_cast<const IVec*>(p); }
    static Weights from_unsigned(IVec w) { return w; }
    static IVec add(IVec acc, Weights w, int32_t x) {
        return (IVec)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(x));
    }
#elif defined(USE_AVX2)
    // vpmaddubsw multiplies unsigned with signed bytes, and two products of 127 * 127 fit in its
    // 16 bits, where 255 * 127 would not: so |w| times x with the sign of w.
    struct Weights {
        __m256i size[2], sign[2];
    };
    static constexpr int OFFSET = 0;
    static Weights from_unsigned(IVec unsigned_weights) {
        Weights w;
        __m256i halves[2];
        std::memcpy(halves, &unsigned_weights, 64);
        for (int i = 0; i < 2; ++i) {
            w.sign[i] = _mm256_xor_si256(halves[i], _mm256_set1_epi8(-128));
            w.size[i] = _mm256_abs_epi8(w.sign[i]);
        }
        return w;
    }
    static Weights weights(const uint8_t* p) {
        return from_unsigned(*reinterpret_cast<const IVec*>(p));
    }
    static IVec add(IVec acc, const Weights& w, int32_t x) {
        __m256i sums[2];
        const __m256i xs = _mm256_set1_epi32(x);
        for (int i = 0; i < 2; ++i) {
            const __m256i pairs = _mm256_maddubs_epi16(w.size[i], _mm256_sign_epi8(xs, w.sign[i]));
            sums[i] = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        }
        IVec sum;
        std::memcpy(&sum, sums, 64);
        return acc + sum;
    }
#else
    using Weights = IVec;
    static constexpr int OFFSET = 128;
    static Weights weights(const uint8_t* p) { return *reinterpret_cast<const IVec*>(p); }
    static Weights from_unsigned(IVec w) { return w; }
    static IVec add(IVec acc, Weights w, int32_t x) {
        for (int i = 0; i < 4; ++i)
            acc += ((w >> (8 * i)) & 255) * int32_t(int8_t(uint32_t(x) >> (8 * i)));
        return acc;
    }
#endif
};

struct Int8 {
    using Acc = IVec;
    using Weights = Bytes::Weights;
    using Input = int32_t;
    static constexpr int GROUP = 4;
    static Weights weights(const uint8_t* p) { return Bytes::weights(p); }
    static Input input(const uint8_t* line, int step) { return BFloat16::input(line, step); }
    static Acc start(const Rows& rows, int64_t row) {
        return IVec{} - Bytes::OFFSET * rows.sums[row];
    }
    static Acc add(Acc acc, const Weights& w, Input x) { return Bytes::add(acc, w, x); }
    static Vec finish(Acc acc, const Matrix& matrix, const Rows& rows, int64_t row, int column) {
        const Vec scale = load(static_cast<const float*>(matrix.scales) + column);
        return __builtin_convertvector(acc, Vec) * (scale * rows.scales[row]);
    }
};

// R rows times C vectors of columns of one block; `block` begins at the first of these columns.
template <class P, int R, int C>
static inline void multiply(const Matrix& matrix, const uint8_t* block, int width, int column,
                            const Rows& rows, int64_t row, Vec (&out)[R][C]) {
    typename P::Acc acc[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) acc[r][c] = P::start(rows, row + r);
    const int num_steps = (matrix.num_inputs + P::GROUP - 1) / P::GROUP;
    const uint8_t* lines = rows.line(row);
    const int64_t stride = rows.stride;
    for (int step = 0; step < num_steps; ++step) {
        typename P::Weights w[C];
        for (int c = 0; c < C; ++c) w[c] = P::weights(block + c * 64);
        for (int r = 0; r < R; ++r) {
            const typename P::Input x = P::input(lines + r * stride, step);
            for (int c = 0; c < C; ++c) acc[r][c] = P::add(acc[r][c], w[c], x);
        }
        block += width * 4;
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c)
            out[r][c] = P::finish(acc[r][c], matrix, rows, row + r, column + c * LANES);
}

struct Int4 {};  // multiply_int4

// INT4's 16 codes stand for these numbers of -127 to 127 (model/quantised.py), here 128 above.
using Codebook = const uint8_t*;

#ifdef USE_AVX512VNNI
static inline IVec look_up(IVec codes, Codebook book) {
    const __m512i table =
        _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(book)));
    return (IVec)_mm512_shuffle_epi8(table, (__m512i)codes);
}
#else
static inline IVec look_up(IVec codes, Codebook book) {
    uint8_t bytes[64];
    std::memcpy(bytes, &codes, 64);
    for (int i = 0; i < 64; ++i) bytes[i] = book[bytes[i]];
    std::memcpy(&codes, bytes, 64);
    return codes;
}
#endif

static inline Vec half_to_float(const uint16_t* p) {
#if defined(USE_AVX512VNNI)
    return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(USE_AVX2)
    Vec v;
    for (int i = 0; i < 2; ++i) {
        const __m256 part =
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8 * i)));
        std::memcpy(reinterpret_cast<char*>(&v) + 32 * i, &part, 32);
    }
    return v;
#else
    Vec v;
    for (int i = 0; i < LANES; ++i) {
        const int exponent = p[i] >> 10 & 31, fraction = p[i] & 1023;
        const float size = exponent ? std::ldexp(1.0f + fraction / 1024.0f, exponent - 15)
                                    : std::ldexp(float(fraction), -24);
        v[i] = p[i] >> 15 ? -size : size;
    }
    return v;
#endif
}

// The same for INT4: whole numbers within a group of inputs, floats over the groups.
template <int R, int C>
static inline void multiply_int4(const Matrix& matrix, const uint8_t* block,
                                 const uint16_t* scales, int width, Codebook book,
                                 const Rows& rows, int64_t row, Vec (&out)[R][C]) {
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) out[r][c] = Vec{};
    const int num_groups = matrix.num_inputs / GROUP_LEN;
    for (int group = 0; group < num_groups; ++group) {
        IVec acc[R][C];
        for (int r = 0; r < R; ++r) {
            const int32_t sum = rows.group_sums[(row + r) * rows.group_stride + group];
            for (int c = 0; c < C; ++c) acc[r][c] = IVec{} - Bytes::OFFSET * sum;
        }
        for (int step = 0; step < 4; ++step) {
            for (int c = 0; c < C; ++c) {
                const IVec codes = *reinterpret_cast<const IVec*>(block + c * 64);
                const auto low = Bytes::from_unsigned(look_up(codes & 0x0f0f0f0f, book));
                const auto high = Bytes::from_unsigned(look_up(codes >> 4 & 0x0f0f0f0f, book));
                for (int r = 0; r < R; ++r) {
                    const uint8_t* line = rows.line(row + r);
                    const int at = group * (GROUP_LEN / 4) + step;
                    acc[r][c] = Bytes::add(acc[r][c], low, BFloat16::input(line, at));
                    acc[r][c] = Bytes::add(acc[r][c], high, BFloat16::input(line, at + 4));
                }
            }
            block += width * 4;
        }
        for (int c = 0; c < C; ++c) {
            const Vec scale = half_to_float(scales + c * LANES);
            for (int r = 0; r < R; ++r) {
                const float of_row = rows.group_scales[(row + r) * rows.group_stride + group];
                out[r][c] += __builtin_convertvector(acc[r][c], Vec) * (scale * of_row);
            }
        }
        scales += width;
    }
}

// What becomes of a product. `beside`, if not null, is what the row's adapter adds.
struct Output {
    enum Kind { STORE, ADD, ACTIVATE } kind;
    float* data;
    int64_t stride;  // elements
    int32_t activation;

    void put(const Matrix& matrix, int64_t row, int column, Vec v, const Vec* beside) const {
        const int count = matrix.num_outputs - column;
        float* place = data + row * stride + column;
        if (matrix.bias != nullptr) v += load_part(matrix.bias + column, count);
        if (beside != nullptr) v += *beside;
        if (kind == ACTIVATE) v = activate(activation, v);
        if (count >= LANES) {
            store(place, kind == ADD ? load(place) + v : v);
            return;
        }
        for (int i = 0; i < count; ++i) place[i] = kind == ADD ? place[i] + v[i] : v[i];
    }
};

// Apart from products without adapters, whose values stay in registers.
template <int R, int C>
__attribute__((noinline)) static void put_adapted(const Matrix& matrix, const Rows& rows,
                                                  int64_t row, int column, const Output& output,
                                                  const Vec (&out)[R][C]) {
    const Thin* thins[R];
    bool is_one = true;
    for (int r = 0; r < R; ++r) {
        thins[r] = thin_of(matrix, rows, row + r);
        is_one &= thins[r] != nullptr && thins[r] == thins[0];
    }
    Vec sums[R][C];
    if (is_one)
        raise<R, C>(*thins[0], matrix, rows, row, column, sums);
    else
        for (int r = 0; r < R; ++r)
            if (thins[r]) raise<1, C>(*thins[r], matrix, rows, row + r, column, sums + r);
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c)
            output.put(matrix, row + r, column + c * LANES, out[r][c],
                       thins[r] ? &sums[r][c] : nullptr);
}

// Vectors `first` to `last` of a block's columns for R rows, C at a time, then one by one.
template <class P, int R, int C>
static inline void cross(const Matrix& matrix, Codebook book, int block_start, int first,
                         int last, const Rows& rows, int64_t row, const Output& output) {
    const int width = std::min(BLOCK_COLUMNS, int(round_up(matrix.num_outputs, LANES)) - block_start);
    for (; first + C <= last; first += C) {
        const int column = block_start + first * LANES;
        Vec out[R][C];
        if constexpr (std::is_same_v<P, Int4>) {
            const int64_t num_groups = matrix.num_inputs / GROUP_LEN;
            const uint16_t* scales = static_cast<const uint16_t*>(matrix.scales);
            multiply_int4<R, C>(matrix, matrix.packed + block_start * num_groups * 16 + first * 64,
                                scales + block_start * num_groups + first * LANES, width, book,
                                rows, row, out);
        } else {
            const int64_t num_steps = (matrix.num_inputs + P::GROUP - 1) / P::GROUP;
            multiply<P, R, C>(matrix, matrix.packed + block_start * num_steps * 4 + first * 64,
                              width, column, rows, row, out);
        }
        if (rows.adapters != nullptr && matrix.thins != nullptr) {
            Vec copy[R][C];
            for (int r = 0; r < R; ++r)
                for (int c = 0; c < C; ++c) copy[r][c] = out[r][c];
            put_adapted<R, C>(matrix, rows, row, column, output, copy);
            continue;
        }
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c)
                output.put(matrix, row + r, column + c * LANES, out[r][c], nullptr);
    }
    if constexpr (C > 1)
        if (first < last) cross<P, R, 1>(matrix, book, block_start, first, last, rows, row, output);
}

// One block of columns for rows `row` to `end`.
template <class P>
static void columns(const Matrix& matrix, Codebook book, int block_start, const Rows& rows,
                    int64_t row, int64_t end, const Output& output) {
    constexpr int C = std::is_same_v<P, Int4> ? 1 : VECTORS;
    const int num_columns = int(round_up(matrix.num_outputs, LANES)) - block_start;
    const int last = std::min(BLOCK_COLUMNS, num_columns) / LANES;
    const auto go = [&](auto size, auto vectors) {
        constexpr int R = decltype(size)::value;
        for (; row + R <= end; row += R)
            cross<P, R, decltype(vectors)::value>(matrix, book, block_start, 0, last, rows, row,
                                                  output);
    };
    if constexpr (MAX_ROWS >= 8) go(std::integral_constant<int, 8>{}, std::integral_constant<int, C>{});
    go(std::integral_constant<int, 4>{}, std::integral_constant<int, C>{});
    go(std::integral_constant<int, 2>{}, std::integral_constant<int, VECTORS>{});
    go(std::integral_constant<int, 1>{}, std::integral_constant<int, VECTORS>{});
}

// The product of prepared rows; called by every thread of a team, which leaves together. Pieces
// are guided: long runs of memory first, which are read a tenth faster, short ones at the end, so
// that a thread that was held up keeps nobody waiting.
static void product(const Matrix& matrix, Codebook book, const Rows& rows, int64_t num_rows,
                    const Output& output) {
    const int64_t num_blocks = (matrix.num_outputs + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
    const int64_t num_panels = (num_rows + PANEL_ROWS - 1) / PANEL_ROWS;
#pragma omp for schedule(guided)
    for (int64_t item = 0; item < num_blocks * num_panels; ++item) {
        const int start = int(item / num_panels) * BLOCK_COLUMNS;
        const int64_t row = item % num_panels * PANEL_ROWS;
        const int64_t end = std::min(row + PANEL_ROWS, num_rows);
        switch (matrix.precision) {
            case FLOAT32: columns<Float32>(matrix, book, start, rows, row, end, output); break;
            case BFLOAT16: columns<BFloat16>(matrix, book, start, rows, row, end, output); break;
            case INT8: columns<Int8>(matrix, book, start, rows, row, end, output); break;
            default: columns<Int4>(matrix, book, start, rows, row, end, output); break;
        }
    }
}
