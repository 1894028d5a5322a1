// A whole pass through the decoder in one team of threads.

constexpr int ITEM_QUERIES = 32;

static int64_t attention_scratch(const Cache& cache, int head_len) {
    return int64_t(ATTENTION_ROWS) * (head_len + cache.num_positions);
}

// The step's work in attention: long pieces first, so that threads end together.
static void split(const Step& step, int num_heads, std::vector<Item>& items,
                  std::vector<Item>& long_spans) {
    for (int64_t s = 0; s < step.num_spans; ++s) {
        const int64_t length = step.spans[s].length;
        for (int head = 0; head < num_heads; ++head) {
            for (int64_t begin = 0; begin < length; begin += ITEM_QUERIES) {
                const int64_t end = std::min<int64_t>(begin + ITEM_QUERIES, length);
                items.push_back({int32_t(s), head, begin, end});
            }
            if (length > ITEM_QUERIES) long_spans.push_back({int32_t(s), head, 0, length});
        }
    }
    if (long_spans.empty()) return;
    std::stable_sort(items.begin(), items.end(), [&](const Item& a, const Item& b) {
        const auto cost = [&](const Item& i) {
            return (i.end - i.begin) * (step.spans[i.span].start + i.end);
        };
        return cost(a) > cost(b);
    });
}

// Where a pass keeps what it computes.
struct Scratch {
    Rows shared;
    Rows own;       // one row, the thread's
    float* wide;    // (N, max(3C, num_inner))
    float* narrow;  // (N, C)

    Rows& rows_for(int64_t num_rows) { return num_rows == 1 ? own : shared; }
    void set_adapters(const int32_t* adapters) { own.adapters = shared.adapters = adapters; }

    static int64_t width(const Decoder& d) { return std::max(3 * d.num_channels, d.num_inner); }
    static int64_t bytes(const Decoder& d, int64_t num_tokens) {
        const int64_t inputs = std::max(d.num_channels, d.num_inner);
        return rows_bytes(num_tokens, inputs, d.max_rank) +
               round_up(num_tokens * (width(d) + d.num_channels) * 4, 64);
    }
    static Scratch in(const Decoder& d, const Step& step) {
        const int64_t inputs = std::max(d.num_channels, d.num_inner);
        Scratch scratch;
        scratch.shared = rows_in(step.scratch, step.num_tokens, inputs, d.max_rank);
        scratch.wide = reinterpret_cast<float*>(
            step.scratch + rows_bytes(step.num_tokens, inputs, d.max_rank));
        scratch.narrow = scratch.wide + step.num_tokens * width(d);
        return scratch;
    }
};

// A single row is prepared by every thread for itself, into memory of its own (Scratch::rows_for):
// that is quicker than to wait for each other.
static void prepare_rows(const float* x, const Matrix& matrix, Rows& rows, int64_t num_rows) {
    const int num_inputs = matrix.num_inputs;
    if (num_rows == 1) return prepare(x, matrix, rows, 0);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < num_rows; ++row) prepare(x + row * num_inputs, matrix, rows, row);
}

// `kept` takes the rows as they are after the norm, unless it is null. It is never `x`, which others
// may still read; a single row is written by one thread and may be read behind the next product.
static void normalise_rows(const float* x, const float* gain, const float* bias, const Decoder& d,
                           const Matrix& matrix, Rows& rows, int64_t num_rows, float* line,
                           float* kept) {
    const size_t line_bytes = d.num_channels * sizeof(float);
    if (num_rows == 1) {
        normalise(x, gain, bias, d.num_channels, d.epsilon, line);
#pragma omp master
        if (kept) std::memcpy(kept, line, line_bytes);
        return prepare(line, matrix, rows, 0);
    }
#pragma omp for schedule(static)
    for (int64_t row = 0; row < num_rows; ++row) {
        normalise(x + row * d.num_channels, gain, bias, d.num_channels, d.epsilon, line);
        if (kept) std::memcpy(kept + row * d.num_channels, line, line_bytes);
        prepare(line, matrix, rows, row);
    }
}

// The residual stream lies in step.x. In a post-norm decoder the norm behind attention moves it to
// scratch.narrow, which attention needs no more by then, and the norm behind the MLP moves it back.
static float* behind_mlp(const Decoder& d, const Step& step, const Scratch& scratch) {
    return d.is_post_norm ? scratch.narrow : step.x;
}

static void prepare_attention(const Decoder& d, const Layer& layer, const Step& step,
                              Scratch& scratch, int64_t num_rows, float* line) {
    Rows& rows = scratch.rows_for(num_rows);
    if (!layer.ln_1_gain) return prepare_rows(step.x, layer.c_attn, rows, num_rows);
    normalise_rows(behind_mlp(d, step, scratch), layer.ln_1_gain, layer.ln_1_bias, d, layer.c_attn,
                   rows, num_rows, line, d.is_post_norm ? step.x : nullptr);
}

static void mlp(const Decoder& d, const Layer& layer, Codebook book, const Step& step,
                Scratch& scratch, int64_t num_rows, float* line) {
    Rows& rows = scratch.rows_for(num_rows);
    float* residual = behind_mlp(d, step, scratch);
    normalise_rows(step.x, layer.ln_2_gain, layer.ln_2_bias, d, layer.c_fc, rows, num_rows, line,
                   d.is_post_norm ? residual : nullptr);
    product(layer.c_fc, book, rows, num_rows,
            {Output::ACTIVATE, scratch.wide, d.num_inner, d.activation});
    prepare_rows(scratch.wide, layer.mlp_proj, rows, num_rows);
    product(layer.mlp_proj, book, rows, num_rows, {Output::ADD, residual, d.num_channels, 0});
}

// The adapters of the rows that keep_wanted leaves.
static std::vector<int32_t> wanted_adapters(const Step& step) {
    std::vector<int32_t> adapters;
    for (int64_t i = 0; step.adapters && i < step.num_wanted; ++i)
        adapters.push_back(step.adapters[step.wanted[i]]);
    return adapters;
}

// Rows nobody asks for are left out of what follows the last layer's attention.
static void keep_wanted(const Decoder& d, const Step& step, float* attended) {
    const size_t line = d.num_channels * sizeof(float);
    for (int64_t i = 0; i < step.num_wanted; ++i) {
        const int64_t from = step.wanted[i];
        if (from == i) continue;
        std::memcpy(step.x + i * d.num_channels, step.x + from * d.num_channels, line);
        std::memcpy(attended + i * d.num_channels, attended + from * d.num_channels, line);
    }
}

static void run(const Decoder& d, const Cache& cache, Codebook book, const Step& step) {
    const int head_len = d.num_channels / d.num_heads;
    std::vector<Item> items, long_spans;
    split(step, d.num_heads, items, long_spans);
    Scratch scratch = Scratch::in(d, step);
    const std::vector<int32_t> adapters = wanted_adapters(step);
#pragma omp parallel firstprivate(scratch)
    {
        std::vector<float> own(std::max<int64_t>(attention_scratch(cache, head_len), d.num_channels));
        const int64_t num_inputs = std::max(d.num_channels, d.num_inner);
        std::vector<uint8_t> own_row(rows_bytes(1, num_inputs, d.max_rank));
        scratch.own = rows_in(own_row.data(), 1, num_inputs, d.max_rank);
        scratch.set_adapters(step.adapters);
        int64_t num_rows = step.num_tokens;
        for (int l = 0; l < d.num_layers; ++l) {
            const Layer& layer = d.layers[l];
            prepare_attention(d, layer, step, scratch, num_rows, own.data());
            product(layer.c_attn, book, scratch.rows_for(num_rows), num_rows,
                    {Output::STORE, scratch.wide, 3 * int64_t(d.num_channels), 0});
            const Attention task{&cache, scratch.wide, scratch.narrow, l,
                                 d.num_heads, head_len, layer.score_scale};
            attention(task, step.spans, items, long_spans, own.data());
            if (l == d.num_layers - 1) {
#pragma omp single
                keep_wanted(d, step, scratch.narrow);
                num_rows = step.num_wanted;
                scratch.set_adapters(step.adapters ? adapters.data() : nullptr);
            }
            prepare_rows(scratch.narrow, layer.attn_proj, scratch.rows_for(num_rows), num_rows);
            product(layer.attn_proj, book, scratch.rows_for(num_rows), num_rows,
                    {Output::ADD, step.x, d.num_channels, 0});
            mlp(d, layer, book, step, scratch, num_rows, own.data());
        }
        const float* last = behind_mlp(d, step, scratch);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < num_rows; ++row)
            normalise(last + row * d.num_channels, d.ln_f_gain, d.ln_f_bias, d.num_channels,
                      d.epsilon, step.hidden + row * d.num_channels);
    }
}

// One product by itself: x (N, K) to out (N, M), its lines `stride` floats apart.
static void linear(const Matrix& matrix, Codebook book, const float* x, int64_t num_rows,
                   float* out, int64_t stride, uint8_t* scratch) {
    Rows rows = rows_in(scratch, num_rows, matrix.num_inputs, 0);
#pragma omp parallel firstprivate(rows)
    {
        std::vector<uint8_t> own_row(rows_bytes(1, matrix.num_inputs, 0));
        if (num_rows == 1) rows = rows_in(own_row.data(), 1, matrix.num_inputs, 0);
        prepare_rows(x, matrix, rows, num_rows);
        product(matrix, book, rows, num_rows, {Output::STORE, out, stride, 0});
    }
}

// One layer's attention by itself: qkv (N, 3 * C) to out (N, C).
static void attend_alone(const Cache& cache, int num_heads, int head_len, int64_t layer, float scale,
                         const float* qkv, float* out, const Span* spans, int64_t num_spans) {
    Step step{};
    step.spans = spans;
    step.num_spans = num_spans;
    std::vector<Item> items, long_spans;
    split(step, num_heads, items, long_spans);
    const Attention task{&cache, qkv, out, layer, num_heads, head_len, scale};
#pragma omp parallel
    {
        std::vector<float> own(attention_scratch(cache, head_len));
        attention(task, spans, items, long_spans, own.data());
    }
}
