// What adapters add to the outputs of a matrix for the rows that have one: B (A x + offset), in
// float32 (LoRA, Hu et al. 2021). Every sum has one order, so a row's bits do not depend on its
// neighbours; rows without an adapter are left as they are.

// The thin matrices beside `matrix` for this row, or null.
static inline const Thin* thin_of(const Matrix& matrix, const Rows& rows, int64_t row) {
    if (rows.adapters == nullptr || matrix.thins == nullptr) return nullptr;
    if (rows.adapters[row] < 0) return nullptr;
    const Thin* thin = matrix.thins + rows.adapters[row];
    return thin->rank > 0 ? thin : nullptr;
}

// A x + offset, kept with the row.
static void lower(const Thin& thin, const float* x, int num_inputs, Rows& rows, int64_t row) {
    const int64_t stride = round_up(num_inputs, LANES);
    float* low = rows.low + row * rows.max_rank;
    for (int j = 0; j < thin.rank; j += RANK_TILE) {
        const float* a = thin.a + j * stride;
        Vec sums[RANK_TILE] = {};
        for (int k = 0; k < num_inputs; k += LANES) {
            const Vec inputs = load_part(x + k, num_inputs - k);
            for (int i = 0; i < RANK_TILE; ++i) sums[i] += inputs * load(a + i * stride + k);
        }
        for (int i = 0; i < RANK_TILE; ++i) low[j + i] = fold(sums[i]) + thin.offset[j + i];
    }
}

// B times that, for R rows with one adapter and C vectors of columns.
template <int R, int C>
static inline void raise(const Thin& thin, const Matrix& matrix, const Rows& rows, int64_t row,
                         int column, Vec (*sums)[C]) {
    const int64_t stride = round_up(matrix.num_outputs, LANES);
    const float* low = rows.low + row * rows.max_rank;
    Vec acc[R][C] = {};
    for (int j = 0; j < thin.rank; ++j) {
        Vec line[C];
        for (int c = 0; c < C; ++c) line[c] = load(thin.b + j * stride + column + c * LANES);
        for (int r = 0; r < R; ++r) {
            const Vec x = splat(low[r * rows.max_rank + j]);
            for (int c = 0; c < C; ++c) acc[r][c] += x * line[c];
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sums[r][c] = acc[r][c];
}

// Bring one row to the form that a product with `matrix` reads, and its adapter's.
static inline void prepare(const float* x, const Matrix& matrix, Rows& rows, int64_t row) {
    if (const Thin* thin = thin_of(matrix, rows, row)) lower(*thin, x, matrix.num_inputs, rows, row);
    round_row(x, matrix.num_inputs, matrix.precision, rows, row);
}
