// Rows of activations, brought to what a product reads: float32, bfloat16, or int8 with one scale
// a row, or one for GROUP_LEN of its values where the weights are INT4. Each row by itself, so its
// bits do not depend on its neighbours.

// value = data * scale; the sums are those of data. INT8 has `scales` and `sums`, INT4 those of
// groups. A line is padded by zeros to a whole number of vectors. `adapters` has the adapter of
// each row, -1 for none, or is null; `low` is what A makes of rows with one (adapters.h).
struct Rows {
    uint8_t* data;
    float* scales;
    int32_t* sums;
    float* group_scales;
    int32_t* group_sums;
    float* low;
    const int32_t* adapters;
    int64_t stride;        // bytes
    int64_t group_stride;  // elements
    int64_t max_rank;

    const uint8_t* line(int64_t row) const { return data + row * stride; }
};

static inline int64_t round_up(int64_t count, int64_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
}

// Where `num_rows` rows of up to `num_inputs` values are kept in scratch memory, and what thin
// matrices of up to `max_rank` make of them.
static inline Rows rows_in(uint8_t* scratch, int64_t num_rows, int64_t num_inputs,
                           int64_t max_rank) {
    Rows rows;
    rows.stride = round_up(num_inputs, 64) * 4;
    rows.group_stride = round_up(num_inputs, GROUP_LEN) / GROUP_LEN;
    rows.data = scratch;
    rows.scales = reinterpret_cast<float*>(scratch + num_rows * rows.stride);
    rows.sums = reinterpret_cast<int32_t*>(rows.scales + num_rows);
    rows.group_scales = reinterpret_cast<float*>(rows.sums + num_rows);
    rows.group_sums = reinterpret_cast<int32_t*>(rows.group_scales + num_rows * rows.group_stride);
    rows.low = reinterpret_cast<float*>(rows.group_sums + num_rows * rows.group_stride);
    rows.adapters = nullptr;
    rows.max_rank = max_rank;
    return rows;
}

static inline int64_t rows_bytes(int64_t num_rows, int64_t num_inputs, int64_t max_rank) {
    const int64_t num_groups = round_up(num_inputs, GROUP_LEN) / GROUP_LEN;
    const int64_t line = round_up(num_inputs, 64) * 4 + 8 + 8 * num_groups + 4 * max_rank;
    return round_up(num_rows * line, 64);
}

// 16 values of which the last vector may have fewer.
static inline Vec load_part(const float* p, int count) {
    if (count >= LANES) return load(p);
    Vec v{};
    for (int i = 0; i < count; ++i) v[i] = p[i];
    return v;
}

static inline int32_t fold(IVec v) {
    int32_t sum = 0;
    for (int i = 0; i < LANES; ++i) sum += v[i];
    return sum;
}

static inline void quantise(const float* x, int num_inputs, Rows& rows, int64_t row) {
    Vec most{};
    for (int k = 0; k < num_inputs; k += LANES)
        most = maximum(most, magnitude(load_part(x + k, num_inputs - k)));
    const float amax = largest(most);
    const float inverse = amax > 0 ? 127.0f / amax : 0.0f;
    rows.scales[row] = amax / 127.0f;
    int8_t* line = reinterpret_cast<int8_t*>(rows.data + row * rows.stride);
    IVec sums{};
    for (int k = 0; k < num_inputs; k += LANES) {
        const IVec whole = to_whole(load_part(x + k, num_inputs - k) * inverse);
        store_bytes(line + k, whole);
        sums += whole;
    }
    rows.sums[row] = fold(sums);
}

// The same group by group; num_inputs is a multiple of GROUP_LEN.
static inline void quantise_groups(const float* x, int num_inputs, Rows& rows, int64_t row) {
    int8_t* line = reinterpret_cast<int8_t*>(rows.data + row * rows.stride);
    for (int group = 0; group < num_inputs / GROUP_LEN; ++group) {
        const int start = group * GROUP_LEN;
        const Vec first = load(x + start), second = load(x + start + LANES);
        const float amax = largest(maximum(magnitude(first), magnitude(second)));
        const float inverse = amax > 0 ? 127.0f / amax : 0.0f;
        const IVec low = to_whole(first * inverse), high = to_whole(second * inverse);
        store_bytes(line + start, low);
        store_bytes(line + start + LANES, high);
        rows.group_scales[row * rows.group_stride + group] = amax / 127.0f;
        rows.group_sums[row * rows.group_stride + group] = fold(low + high);
    }
}

// Bring one row to the form that a product in `precision` reads.
static inline void round_row(const float* x, int num_inputs, int32_t precision, Rows& rows,
                             int64_t row) {
    uint8_t* line = rows.data + row * rows.stride;
    if (precision == INT8) return quantise(x, num_inputs, rows, row);
    if (precision == INT4) return quantise_groups(x, num_inputs, rows, row);
    for (int k = 0; k < num_inputs; k += LANES) {
        const Vec v = load_part(x + k, num_inputs - k);
        if (precision == BFLOAT16)
            store(reinterpret_cast<uint16_t*>(line) + k, v);
        else
            store(reinterpret_cast<float*>(line) + k, v);
    }
}

// LayerNorm of one row, (x - mean) / sqrt(variance + epsilon) * gain + bias. out may be x.
static inline void normalise(const float* x, const float* gain, const float* bias, int num_channels,
                             float epsilon, float* out) {
    Vec sums{};
    for (int c = 0; c < num_channels; c += LANES) sums += load_part(x + c, num_channels - c);
    const float mean = fold(sums) / num_channels;
    Vec squares{};
    for (int c = 0; c < num_channels; c += LANES) {
        const int count = num_channels - c;
        Vec v = load_part(x + c, count) - mean;
        for (int i = count; i < LANES; ++i) v[i] = 0;
        squares += v * v;
    }
    const float factor = 1.0f / std::sqrt(fold(squares) / num_channels + epsilon);
    for (int c = 0; c < num_channels; c += LANES) {
        const int count = num_channels - c;
        const Vec y = (load_part(x + c, count) - mean) * factor * load_part(gain + c, count) +
                      load_part(bias + c, count);
        if (count >= LANES)
            store(out + c, y);
        else
            for (int i = 0; i < count; ++i) out[c + i] = y[i];
    }
}
