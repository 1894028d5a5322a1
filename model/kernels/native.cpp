// The native CPU kernels, called through ctypes (model/kernels/native.py). Plain C interface, no
// Python and no torch headers, so it builds in seconds. Built without linking an OpenMP
// library: the symbols come from the one that torch has loaded, so there is one thread pool.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

// One layer's attention. query, key and value are (N, H * D), their lines `token_stride` floats
// apart; keys and values are the layer's cache, (S, H, T, D); out is (N, H * D), dense.
struct Task {
    const float* query;
    const float* key;
    const float* value;
    float* out;
    float* keys;
    float* values;
    int64_t token_stride;
    int32_t num_heads;
    int32_t head_len;
    int32_t num_positions;
    float scale;
};

// The tokens of one row: `length` of them, from `first_token` on along N and from position
// `start` on in `slot`.
struct Span {
    int64_t slot;
    int64_t start;
    int64_t length;
    int64_t first_token;
};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_X86_PATHS 1
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
namespace avx512 {
#include "attention_paths.h"
}
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#include "attention_paths.h"
}
#pragma GCC pop_options
#endif
namespace plain {
#include "attention_paths.h"
}

extern "C" {

// Bit 0: plain, bit 1: avx2, bit 2: avx512; what this processor can run.
int gpt2_available_paths() {
    int paths = 1;
#ifdef HAS_X86_PATHS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        paths |= 2;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
            paths |= 4;
    }
#endif
    return paths;
}

// Write keys and values into the cache and attend. `path` is one bit of gpt2_available_paths.
// head_len must be a multiple of 16.
void gpt2_attention(int path, const Task* task, const Span* spans, int64_t num_spans) {
#ifdef HAS_X86_PATHS
    if (path == 4) return avx512::run(*task, spans, num_spans);
    if (path == 2) return avx2::run(*task, spans, num_spans);
#endif
    plain::run(*task, spans, num_spans);
}
}
