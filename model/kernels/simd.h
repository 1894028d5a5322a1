// Vectors of 16 lanes for one instruction set: GCC's own vectors, and intrinsics where they
// cannot say it. Included once for each path, inside its namespace and under its target.

using Vec = float __attribute__((vector_size(64), aligned(4), may_alias));
using IVec = int32_t __attribute__((vector_size(64), aligned(4), may_alias));
using HalfVec = uint16_t __attribute__((vector_size(32), aligned(2), may_alias));
using ByteVec = int8_t __attribute__((vector_size(16), aligned(1), may_alias));
constexpr int LANES = 16;

static inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
static inline void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
static inline Vec splat(float x) { return Vec{} + x; }

// 16 bits to 32 and back, and whole numbers to bytes. __builtin_convertvector says the same, but
// GCC takes four instructions for each of these.
#if defined(USE_AVX512VNNI)
static inline IVec widen(HalfVec v) { return (IVec)_mm512_cvtepu16_epi32((__m256i)v); }
static inline HalfVec narrow(IVec v) { return (HalfVec)_mm512_cvtepi32_epi16((__m512i)v); }
static inline void store_bytes(int8_t* p, IVec v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)v));
}
#else
static inline IVec widen(HalfVec v) {
#ifdef USE_AVX2
    const __m256i parts[2] = {_mm256_cvtepu16_epi32(_mm256_castsi256_si128((__m256i)v)),
                              _mm256_cvtepu16_epi32(_mm256_extracti128_si256((__m256i)v, 1))};
    IVec wide;
    std::memcpy(&wide, parts, 64);
    return wide;
#else
    return __builtin_convertvector(v, IVec);
#endif
}
static inline HalfVec narrow(IVec v) { return __builtin_convertvector(v, HalfVec); }
static inline void store_bytes(int8_t* p, IVec v) {
    *reinterpret_cast<ByteVec*>(p) = __builtin_convertvector(v, ByteVec);
}
#endif

// Whole numbers of 8 bits.
static inline Vec load(const int8_t* p) {
#if defined(USE_AVX512VNNI)
    return (Vec)_mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(USE_AVX2)
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m256 parts[2] = {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                             _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
    Vec v;
    std::memcpy(&v, parts, 64);
    return v;
#else
    return __builtin_convertvector(*reinterpret_cast<const ByteVec*>(p), Vec);
#endif
}

// bfloat16 is the upper half of a float32.
static inline Vec load(const uint16_t* p) {
    return (Vec)(widen(*reinterpret_cast<const HalfVec*>(p)) << 16);
}

// To the nearest, ties to even. NaN stays NaN.
static inline void store(uint16_t* p, Vec v) {
    const IVec bits = (IVec)v;
    const IVec rounded = bits + (((bits >> 16) & 1) + 0x7fff);
    const IVec chosen = v != v ? (bits | 0x400000) : rounded;
    *reinterpret_cast<HalfVec*>(p) = narrow((chosen >> 16) & 0xffff);
}

// The sum of all lanes: halves are added until one is left.
static inline float fold(Vec v) {
    v += __builtin_shuffle(v, IVec{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
    v += __builtin_shuffle(v, IVec{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
    v += __builtin_shuffle(v, IVec{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
    v += __builtin_shuffle(v, IVec{1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14});
    return v[0];
}

static inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }
static inline Vec magnitude(Vec v) { return (Vec)((IVec)v & 0x7fffffff); }

// NaN in a lane may be lost: what holds NaN shows it in its sums.
static inline float largest(Vec v) {
    v = maximum(v, __builtin_shuffle(v, IVec{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}));
    v = maximum(v, __builtin_shuffle(v, IVec{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11}));
    v = maximum(v, __builtin_shuffle(v, IVec{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13}));
    return v[0] > v[1] ? v[0] : v[1];
}

// To the nearest whole number, ties to even. Not by adding and taking away 1.5 * 2^23, which the
// compiler would join with the multiplication before it: ties would fall elsewhere.
static inline IVec to_whole(Vec x) {
#if defined(USE_AVX512VNNI)
    return (IVec)_mm512_cvtps_epi32((__m512)x);
#elif defined(USE_AVX2)
    __m256 parts[2];
    std::memcpy(parts, &x, 64);
    const __m256i whole[2] = {_mm256_cvtps_epi32(parts[0]), _mm256_cvtps_epi32(parts[1])};
    IVec v;
    std::memcpy(&v, whole, 64);
    return v;
#else
    IVec v;
    for (int i = 0; i < LANES; ++i) v[i] = int32_t(std::nearbyint(x[i]));
    return v;
#endif
}

// exp within float32's range, 0 below it. Cephes' reduction and polynomial, relative error below
// 2e-7.
static inline Vec exp_of(Vec x) {
    const IVec is_tiny = x < splat(-87.0f);
    x = is_tiny ? splat(-87.0f) : x;
    x = x > splat(88.0f) ? splat(88.0f) : x;
    const Vec shift = splat(12582912.0f);
    const Vec scaled = x * 1.44269504088896341f + shift;
    const Vec n = scaled - shift;
    Vec r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    Vec y = splat(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const IVec exponent = ((IVec)scaled << 23) + (127 << 23);
    return is_tiny ? Vec{} : y * (Vec)exponent;
}

static inline Vec sigmoid(Vec x) { return splat(1.0f) / (exp_of(-x) + 1.0f); }

// Abramowitz and Stegun 7.1.26, error at most 1.5e-7.
static inline Vec erf_of(Vec x) {
    const Vec a = magnitude(x);
    const Vec t = splat(1.0f) / (a * 0.3275911f + 1.0f);
    Vec y = splat(1.061405429f);
    y = y * t - 1.453152027f;
    y = y * t + 1.421413741f;
    y = y * t - 0.284496736f;
    y = y * t + 0.254829592f;
    const Vec positive = splat(1.0f) - y * t * exp_of(-(a * a));
    return x < Vec{} ? -positive : positive;
}

static inline Vec activate(int32_t activation, Vec x) {
    switch (activation) {
        case GELU_TANH:  // x/2 (1 + tanh u) = x sigmoid(2u)
            return x * sigmoid((x * x * 0.044715f + 1.0f) * x * 1.5957691216057308f);
        case GELU_ERF:
            return x * 0.5f * (erf_of(x * 0.70710678118654752f) + 1.0f);
        case RELU:
            return x > Vec{} ? x : Vec{};
        case SILU:
            return x * sigmoid(x);
        default:  // TANH
            return sigmoid(x * 2.0f) * 2.0f - 1.0f;
    }
}
