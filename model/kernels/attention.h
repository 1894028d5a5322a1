// Causal attention over slots, read in place.
//
// A query's result is one fixed sequence of operations whatever other queries are in the step:
// each score is a chain of multiply-adds in the order of channels, 16 keys side by side; the
// softmax sum runs over 16 lanes, keys going round them; weighted values are added key by key. So
// decode and prefill, any chunk and any neighbour give the same bits.

struct Attention {
    const Cache* cache;
    const float* qkv;  // (N, 3 * H * D)
    float* out;        // (N, H * D)
    int64_t layer;
    int num_heads;
    int head_len;
    float scale;

    int64_t token_stride() const { return 3 * int64_t(num_heads) * head_len; }
    int weights_len() const { return cache->num_positions; }
    template <class T>
    T* slot(void* data, int64_t slot_index, int head) const {
        const int64_t index = (layer * cache->num_slots + slot_index) * num_heads + head;
        return static_cast<T*>(data) + index * cache->num_positions * head_len;
    }
    float* slot_scales(float* scales, int64_t slot_index, int head) const {
        const int64_t index = (layer * cache->num_slots + slot_index) * num_heads + head;
        return scales == nullptr ? nullptr : scales + index * cache->num_positions;
    }
};

// INT8 keeps each head's key and value of a position with one scale.
template <class T>
constexpr bool IS_SCALED = std::is_same_v<T, int8_t>;

// The lines of memory that hold `count` values from p on, brought nearer.
template <class T>
static inline void prefetch(const T* p, int64_t count) {
    for (int64_t i = 0; i < count; i += 64 / int(sizeof(T))) __builtin_prefetch(p + i);
}

// Scores of Q queries against the B tiles of 16 keys from `tile` on. The values of these keys are
// fetched meanwhile.
template <class T, int Q, int B>
static inline void score(const float* query, const T* keys, const float* scales, const T* values,
                         int head_len, int tile, float* weights, int stride) {
    Vec sums[Q][B] = {};
    const int64_t place = int64_t(tile) * LANES * head_len;
    const T* first = keys + place;
    for (int d = 0; d < head_len; ++d) {
        if (Q == 1) prefetch(values + place + d * B * LANES, B * LANES);
        Vec key[B];
        for (int b = 0; b < B; ++b) key[b] = load(first + (b * head_len + d) * LANES);
        for (int q = 0; q < Q; ++q) {
            const Vec x = splat(query[q * head_len + d]);
            for (int b = 0; b < B; ++b) sums[q][b] += x * key[b];
        }
    }
    for (int b = 0; b < B; ++b) {
        const int at = (tile + b) * LANES;
        if constexpr (IS_SCALED<T>)
            for (int q = 0; q < Q; ++q) sums[q][b] *= load(scales + at);
        for (int q = 0; q < Q; ++q) store(weights + q * stride + at, sums[q][b]);
    }
}

// Scores to weights, in place, for a query that sees `visible` keys; returns their sum.
static inline float soften(float* line, int visible) {
    const int padded = int(round_up(visible, LANES));
    for (int t = visible; t < padded; ++t) line[t] = -INFINITY;
    Vec most = load(line);
    for (int t = LANES; t < padded; t += LANES) most = maximum(most, load(line + t));
    const float top = largest(most);
    Vec total{};
    for (int t = 0; t < padded; t += LANES) {
        const Vec w = exp_of(load(line + t) - top);
        store(line + t, w);
        total += w;
    }
    return fold(total);
}

// Weights of whole numbers instead of values. What lies beyond `visible` is not read later.
static inline void scale_weights(float* line, const float* scales, int visible) {
    for (int t = 0; t < visible; t += LANES) store(line + t, load(line + t) * load(scales + t));
}

// Weighted sum of values, V vectors of channels at a time. Query q sees first + q + 1 keys; those
// it does not see are left out, so that no other token's value can reach it.
// Meanwhile the keys of the `next` piece of work are fetched.
template <class T, int Q, int V>
static inline void mix(const T* values, const float* weights, int stride, const float* totals,
                       int head_len, int first, const T* next, float* const* out) {
    for (int d = 0; d + V * LANES <= head_len; d += V * LANES) {
        Vec sums[Q][V] = {};
        for (int t = 0; t <= first; ++t) {
            if (Q == 1) prefetch(next + int64_t(t) * head_len + d, V * LANES);
            Vec value[V];
            for (int v = 0; v < V; ++v) value[v] = load(values + int64_t(t) * head_len + d + v * LANES);
            for (int q = 0; q < Q; ++q) {
                const Vec w = splat(weights[q * stride + t]);
                for (int v = 0; v < V; ++v) sums[q][v] += w * value[v];
            }
        }
        for (int t = first + 1; t < first + Q; ++t)
            for (int v = 0; v < V; ++v) {
                const Vec value = load(values + int64_t(t) * head_len + d + v * LANES);
                for (int q = t - first; q < Q; ++q)
                    sums[q][v] += splat(weights[q * stride + t]) * value;
            }
        for (int q = 0; q < Q; ++q)
            for (int v = 0; v < V; ++v) store(out[q] + d + v * LANES, sums[q][v] / totals[q]);
    }
}

template <class T, int Q>
static inline void attend(const Attention& task, const Span& span, int head, int64_t offset,
                          const T* next, float* scratch) {
    const int head_len = task.head_len, stride = task.weights_len();
    const int first = int(span.start + offset);
    float* query = scratch;
    float* weights = scratch + Q * head_len;
    float* out[Q];
    for (int q = 0; q < Q; ++q) {
        const int64_t token = span.first_token + offset + q;
        const float* source = task.qkv + token * task.token_stride() + head * head_len;
        for (int d = 0; d < head_len; ++d) query[q * head_len + d] = source[d] * task.scale;
        out[q] = task.out + (token * task.num_heads + head) * head_len;
    }
    const T* keys = task.slot<T>(task.cache->keys, span.slot, head);
    const T* values = task.slot<T>(task.cache->values, span.slot, head);
    const float* key_scales = task.slot_scales(task.cache->key_scales, span.slot, head);
    const float* value_scales = task.slot_scales(task.cache->value_scales, span.slot, head);
    const int num_tiles = (first + Q + LANES - 1) / LANES;
    int tile = 0;
    const auto go = [&](auto size) {
        constexpr int B = decltype(size)::value;
        for (; tile + B <= num_tiles; tile += B)
            score<T, Q, B>(query, keys, key_scales, values, head_len, tile, weights, stride);
    };
    if constexpr (Q == 1) go(std::integral_constant<int, 8>{});
    if constexpr (ATTENTION_TILES >= 4) go(std::integral_constant<int, 4>{});
    go(std::integral_constant<int, 2>{});
    go(std::integral_constant<int, 1>{});
    float totals[Q];
    for (int q = 0; q < Q; ++q) {
        totals[q] = soften(weights + q * stride, first + q + 1);
        if constexpr (IS_SCALED<T>) scale_weights(weights + q * stride, value_scales, first + q + 1);
    }
    if (head_len % (4 * LANES) == 0)
        mix<T, Q, 4>(values, weights, stride, totals, head_len, first, next, out);
    else
        mix<T, Q, 1>(values, weights, stride, totals, head_len, first, next, out);
}

// What a head's key or value is multiplied with before it is stored; its scale, to multiply with
// when it is read, goes to `scale`. NaN and infinity make the scale NaN: they must show.
template <class T>
static inline float inverse_scale(const float* x, int count, float* scale) {
    if constexpr (!IS_SCALED<T>) return 1.0f;
    Vec most{}, nothing{};
    for (int d = 0; d < count; d += LANES) {
        most = maximum(most, magnitude(load(x + d)));
        nothing += load(x + d) * 0.0f;
    }
    const float amax = largest(most);
    *scale = amax / 127.0f + fold(nothing);
    return amax > 0 ? 127.0f / amax : 0.0f;
}

template <class T>
static inline void put(T* p, Vec v, float inverse) {
    if constexpr (IS_SCALED<T>)
        store_bytes(p, to_whole(v * inverse));
    else
        store(p, v);
}

// Keys and values of tokens `begin` to `end` of a span into its slot.
template <class T>
static inline void remember(const Attention& task, const Span& span, int head, int64_t begin,
                            int64_t end) {
    const int head_len = task.head_len;
    const int64_t channels = int64_t(task.num_heads) * head_len;
    T* keys = task.slot<T>(task.cache->keys, span.slot, head);
    T* values = task.slot<T>(task.cache->values, span.slot, head);
    float* key_scales = task.slot_scales(task.cache->key_scales, span.slot, head);
    float* value_scales = task.slot_scales(task.cache->value_scales, span.slot, head);
    for (int64_t i = begin; i < end; ++i) {
        const float* key =
            task.qkv + (span.first_token + i) * task.token_stride() + channels + head * head_len;
        const float* value = key + channels;
        const int64_t position = span.start + i;
        const float inverse_key = inverse_scale<T>(key, head_len, key_scales + position);
        const float inverse_value = inverse_scale<T>(value, head_len, value_scales + position);
        T* column = keys + position / LANES * LANES * head_len + position % LANES;
        for (int d = 0; d < head_len; d += LANES) {
            T lanes[LANES];
            put(lanes, load(key + d), inverse_key);
            for (int i = 0; i < LANES; ++i) column[(d + i) * LANES] = lanes[i];
            put(values + position * head_len + d, load(value + d), inverse_value);
        }
    }
}

// A piece of work: some queries of one head of one span.
struct Item {
    int32_t span;
    int32_t head;
    int64_t begin;
    int64_t end;
};

template <class T>
static inline void run_item(const Attention& task, const Span& span, const Item& item,
                            const T* next, float* scratch) {
    constexpr int Q = ATTENTION_ROWS;
    int64_t offset = item.begin;
    for (; offset + Q <= item.end; offset += Q)
        attend<T, Q>(task, span, item.head, offset, next, scratch);
    for (; offset < item.end; ++offset) attend<T, 1>(task, span, item.head, offset, next, scratch);
}

// Remember and attend; called by every thread of a team, which leaves together. A span that is
// one item a head remembers its own keys; longer ones do so beforehand.
template <class T>
static void attention_in(const Attention& task, const Span* spans, const std::vector<Item>& items,
                         const std::vector<Item>& long_spans, float* scratch) {
    if (!long_spans.empty()) {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < int64_t(long_spans.size()); ++i) {
            const Item& item = long_spans[i];
            remember<T>(task, spans[item.span], item.head, item.begin, item.end);
        }
    }
#pragma omp for schedule(guided, 2)
    for (int64_t i = 0; i < int64_t(items.size()); ++i) {
        const Item& item = items[i];
        const Span& span = spans[item.span];
        if (item.begin == 0 && item.end == span.length)
            remember<T>(task, span, item.head, 0, span.length);
        const Item& after = items[std::min<int64_t>(i + 1, items.size() - 1)];
        const Span& then = spans[after.span];
        const T* next = task.slot<T>(task.cache->keys, then.slot, after.head);
        if constexpr (IS_SCALED<T>) {
            const int64_t seen = then.start + then.length;
            prefetch(task.slot_scales(task.cache->key_scales, then.slot, after.head), seen);
            prefetch(task.slot_scales(task.cache->value_scales, then.slot, after.head), seen);
        }
        run_item<T>(task, span, item, next, scratch);
    }
}

// The same in the precision of the cache.
static void attention(const Attention& task, const Span* spans, const std::vector<Item>& items,
                      const std::vector<Item>& long_spans, float* scratch) {
    switch (task.cache->precision) {
        case INT8: return attention_in<int8_t>(task, spans, items, long_spans, scratch);
        case BFLOAT16: return attention_in<uint16_t>(task, spans, items, long_spans, scratch);
        default: return attention_in<float>(task, spans, items, long_spans, scratch);
    }
}
