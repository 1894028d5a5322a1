// Causal attention over slots for one instruction set. Included once for each, inside a
// namespace and under that set's target options; uses nothing but the types and names below.
//
// A query's result is computed by one fixed sequence of operations whatever other queries are in
// the step: scores in the order of keys, each a sum over 16 lanes folded in a fixed tree; the
// softmax sum over 16 lanes, keys going round them; weighted values added key by key. So decode
// and prefill, any chunk and any neighbour give the same bits.

using Vec = float __attribute__((vector_size(64), aligned(4)));
using IVec = int __attribute__((vector_size(64), aligned(4)));
constexpr int LANES = 16;

static inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
static inline void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
static inline Vec splat(float x) { return Vec{} + x; }

// The sum of all lanes: halves are added until one is left.
static inline float fold(Vec v) {
    v += __builtin_shuffle(v, IVec{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
    v += __builtin_shuffle(v, IVec{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
    v += __builtin_shuffle(v, IVec{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
    v += __builtin_shuffle(v, IVec{1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14});
    return v[0];
}

// exp for arguments that are not positive; -inf gives 0. Cephes' reduction and polynomial,
// relative error below 2e-7.
static inline Vec exp_nonpositive(Vec x) {
    const Vec lowest = splat(-87.0f);
    const IVec is_tiny = x < lowest;
    x = is_tiny ? lowest : x;
    const Vec shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
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
    y = y * (Vec)exponent;
    return is_tiny ? Vec{} : y;
}

// Scores of Q queries against keys [0, end), then their softmax weights and sums. Query i sees
// keys up to and including `first + i`. The lines of `weights` are `stride` floats apart and
// have room up to a whole number of vectors.
template <int Q>
static inline void weigh(const float* query, const float* keys, int head_len, int end, int first,
                         float* weights, int stride, float* totals) {
    for (int t = 0; t < end; ++t) {
        const float* key = keys + int64_t(t) * head_len;
        Vec sums[Q] = {};
        for (int d = 0; d < head_len; d += LANES)
            for (int i = 0; i < Q; ++i) sums[i] += load(query + i * head_len + d) * load(key + d);
        for (int i = 0; i < Q; ++i) weights[i * stride + t] = fold(sums[i]);
    }
    for (int i = 0; i < Q; ++i) {
        float* line = weights + i * stride;
        const int visible = first + i + 1;
        const int padded = (end + LANES - 1) / LANES * LANES;
        for (int t = visible; t < padded; ++t) line[t] = -INFINITY;
        float largest = line[0];
        for (int t = 1; t < visible; ++t) largest = line[t] > largest ? line[t] : largest;
        Vec total = {};
        for (int t = 0; t < padded; t += LANES) {
            const Vec w = exp_nonpositive(load(line + t) - largest);
            store(line + t, w);
            total += w;
        }
        totals[i] = fold(total);
    }
}

// Weighted sum of values, one vector of channels at a time. Keys a query does not see have
// weight zero and are left out, so that no other token's value can reach it.
template <int Q>
static inline void mix(const float* values, const float* weights, int stride, const float* totals,
                       int head_len, int end, int first, float* const* out) {
    for (int d = 0; d < head_len; d += LANES) {
        Vec sums[Q] = {};
        for (int t = 0; t <= first; ++t) {
            const Vec value = load(values + int64_t(t) * head_len + d);
            for (int i = 0; i < Q; ++i) sums[i] += splat(weights[i * stride + t]) * value;
        }
        for (int t = first + 1; t < end; ++t) {
            const Vec value = load(values + int64_t(t) * head_len + d);
            for (int i = t - first; i < Q; ++i) sums[i] += splat(weights[i * stride + t]) * value;
        }
        for (int i = 0; i < Q; ++i) store(out[i] + d, sums[i] / totals[i]);
    }
}

template <int Q>
static inline void attend(const Task& task, const Span& span, int head, int offset, float* scratch) {
    const int head_len = task.head_len;
    const int first = int(span.start) + offset;
    const int end = first + Q;
    const int stride = (task.num_positions + LANES - 1) / LANES * LANES;
    float* query = scratch;
    float* weights = scratch + Q * head_len;
    float totals[Q];
    float* out[Q];
    for (int i = 0; i < Q; ++i) {
        const int64_t token = span.first_token + offset + i;
        const float* source = task.query + token * task.token_stride + head * head_len;
        for (int d = 0; d < head_len; ++d) query[i * head_len + d] = source[d] * task.scale;
        out[i] = task.out + token * task.num_heads * head_len + head * head_len;
    }
    const int64_t place = (span.slot * task.num_heads + head) * int64_t(task.num_positions) * head_len;
    weigh<Q>(query, task.keys + place, head_len, end, first, weights, stride, totals);
    mix<Q>(task.values + place, weights, stride, totals, head_len, end, first, out);
}

static void write_cache(const Task& task, const Span& span, int head) {
    const int head_len = task.head_len;
    for (int64_t i = 0; i < span.length; ++i) {
        const int64_t source = (span.first_token + i) * task.token_stride + head * head_len;
        const int64_t place =
            ((span.slot * task.num_heads + head) * int64_t(task.num_positions) + span.start + i) *
            head_len;
        std::memcpy(task.keys + place, task.key + source, head_len * sizeof(float));
        std::memcpy(task.values + place, task.value + source, head_len * sizeof(float));
    }
}

static void run(const Task& task, const Span* spans, int64_t num_spans) {
    constexpr int GROUP = 4;
    const int64_t num_items = num_spans * task.num_heads;
    const int stride = (task.num_positions + LANES - 1) / LANES * LANES;
#pragma omp parallel
    {
        std::vector<float> scratch(GROUP * (task.head_len + stride));
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < num_items; ++item) {
            const Span& span = spans[item / task.num_heads];
            const int head = int(item % task.num_heads);
            write_cache(task, span, head);
            int offset = 0;
            for (; offset + GROUP <= span.length; offset += GROUP)
                attend<GROUP>(task, span, head, offset, scratch.data());
            for (; offset < span.length; ++offset)
                attend<1>(task, span, head, offset, scratch.data());
        }
    }
}
