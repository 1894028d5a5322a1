// What adapters add to the outputs of a matrix for the rows that have one: B (A x + offset), in
// float32 (LoRA, Hu et al. 2021). Every sum has one order, so a row's bits do not depend on its
// neighbours; rows without an adapter are left as they are.

// The thin matrices beside `matrix` for this row, or null.
static inline const Thin* thin_of(const Matrix& matrix, const Rows& rows, int64_t row) {
    if (rows.adapters == nullptr || matrix.thins == nullptr || rows.adapters[row] < 0) return nullptr;
    const Thin* thin = matrix.thins + rows.adapters[row];
    return thin->rank > 0 ? thin : nullptr;
}

// A x + offset, kept with the row.
static void lower(const Thin& thin, const float* x, int num_inputs, const Rows& rows, int64_t row) {
    float* low = rows.low + row * rows.max_rank;
    for (int j = 0; j < thin.rank; ++j) {
        const float* a = thin.a + int64_t(j) * num_inputs;
        Vec sum{};
        for (int k = 0; k < num_inputs; k += LANES)
            sum += load_part(x + k, num_inputs - k) * load_part(a + k, num_inputs - k);
        low[j] = fold(sum) + thin.offset[j];
    }
}

// B times that, for the outputs from `column` on.
static inline Vec raise(const Thin& thin, const Matrix& matrix, const Rows& rows, int64_t row,
                        int column) {
    const float* low = rows.low + row * rows.max_rank;
    const int64_t stride = round_up(matrix.num_outputs, LANES);
    Vec sum{};
    for (int j = 0; j < thin.rank; ++j) sum += splat(low[j]) * load(thin.b + j * stride + column);
    return sum;
}

// Bring one row to the form that a product with `matrix` reads, and its adapter's.
static inline void prepare(const float* x, const Matrix& matrix, Rows& rows, int64_t row) {
    if (const Thin* thin = thin_of(matrix, rows, row)) lower(*thin, x, matrix.num_inputs, rows, row);
    round_row(x, matrix.num_inputs, matrix.precision, rows, row);
}
