// The native CPU kernels, called through ctypes (model/kernels/native.py). Plain C interface, no
// Python and no torch headers, so it builds in seconds. Built without linking an OpenMP
// library: the symbols come from the one that torch has loaded, so there is one thread pool.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "types.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_X86_PATHS 1
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")
#define USE_AVX512VNNI
#define USE_AVX512BF16
namespace avx512 {
#include "path.h"
}
#pragma GCC pop_options
#undef USE_AVX512BF16
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
namespace avx512vnni {
#include "path.h"
}
#pragma GCC pop_options
#undef USE_AVX512VNNI
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define USE_AVX2
namespace avx2 {
#include "path.h"
}
#pragma GCC pop_options
#undef USE_AVX2
#endif
namespace plain {
#include "path.h"
}

namespace {
enum Path { PLAIN = 1, AVX2 = 2, AVX512VNNI = 4, AVX512 = 8 };

// One output's weights of an INT8 matrix, which is a row of an embedding: out (K).
void int8_row(const Matrix& matrix, int64_t output, float* out) {
    const int64_t block = output / BLOCK_COLUMNS * BLOCK_COLUMNS;
    const int64_t width =
        std::min<int64_t>(BLOCK_COLUMNS, plain::round_up(matrix.num_outputs, plain::LANES) - block);
    const uint8_t* first =
        matrix.packed + block * plain::round_up(matrix.num_inputs, 4) + (output - block) * 4;
    const float scale = static_cast<const float*>(matrix.scales)[output];
    for (int k = 0; k < matrix.num_inputs; ++k)
        out[k] = (int(first[k / 4 * width * 4 + k % 4]) - 128) * scale;
}
}  // namespace

#ifdef HAS_X86_PATHS
#define ON_PATH(path, call)                         \
    switch (path) {                                 \
        case AVX512: return avx512::call;           \
        case AVX512VNNI: return avx512vnni::call;   \
        case AVX2: return avx2::call;               \
        default: return plain::call;                \
    }
#else
#define ON_PATH(path, call) return plain::call;
#endif

extern "C" {

// The bits of Path that this processor can run.
int gpt2_available_paths() {
    int paths = PLAIN;
#ifdef HAS_X86_PATHS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c")) {
        paths |= AVX2;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vnni")) {
            paths |= AVX512VNNI;
            if (__builtin_cpu_supports("avx512bf16")) paths |= AVX512;
        }
    }
#endif
    return paths;
}

// Bytes that gpt2_run needs for so many tokens, and gpt2_linear for so many rows of num_inputs.
int64_t gpt2_run_scratch(const Decoder* decoder, int64_t num_tokens) {
    return plain::Scratch::bytes(*decoder, num_tokens);
}
int64_t gpt2_linear_scratch(int64_t num_rows, int64_t num_inputs) {
    return plain::rows_bytes(num_rows, num_inputs, 0);
}

// Embeddings to final hidden states, through every layer. `path` is one bit of
// gpt2_available_paths; `book` are the 16 unsigned values of INT4's codes.
void gpt2_run(int path, const Decoder* decoder, const Cache* cache, const uint8_t* book,
              const Step* step) {
    ON_PATH(path, run(*decoder, *cache, book, *step));
}

void gpt2_linear(int path, const Matrix* matrix, const uint8_t* book, const float* x,
                 int64_t num_rows, float* out, int64_t stride, uint8_t* scratch) {
    ON_PATH(path, linear(*matrix, book, x, num_rows, out, stride, scratch));
}

// Weights of the outputs `ids` of an INT8 matrix, as floats: out (num_ids, K).
void gpt2_rows(const Matrix* matrix, const int64_t* ids, int64_t num_ids, float* out) {
#pragma omp parallel for if (num_ids >= 64)
    for (int64_t i = 0; i < num_ids; ++i) int8_row(*matrix, ids[i], out + i * matrix->num_inputs);
}

void gpt2_attention(int path, const Cache* cache, int num_heads, int head_len, int64_t layer,
                    float scale, const float* qkv, float* out, const Span* spans,
                    int64_t num_spans) {
    ON_PATH(path, attend_alone(*cache, num_heads, head_len, layer, scale, qkv, out, spans,
                               num_spans));
}
}
