// What crosses between Python (model/kernels/structs.py) and the kernels. All pointers are
// borrowed for the length of a call.
#pragma once
#include <cstdint>

enum Precision : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT4 = 3 };
enum Activation : int32_t { GELU_TANH = 0, GELU_ERF = 1, RELU = 2, SILU = 3, TANH = 4 };

constexpr int BLOCK_COLUMNS = 48;  // model/kernels/packing.py
constexpr int GROUP_LEN = 32;      // inputs that share a scale in INT4
constexpr int RANK_TILE = 4;       // model/kernels/thin.py

// The two thin matrices that an adapter has beside one matrix (model/lora.py): to its outputs they
// add B (A x + offset), in float32. a is A (rank, num_inputs), b is B transposed (rank,
// num_outputs), their lines padded by zeros to a multiple of 16, and there are whole RANK_TILEs of
// them. rank is 0 where there are none.
struct Thin {
    const float* a;
    const float* b;
    const float* offset;
    int32_t rank;
};

// A linear layer, out = x * weight^T + bias, its weight (num_outputs, num_inputs) interleaved as
// model/kernels/packing.py says. scales: one float an output for INT8, one float16 a group of
// inputs and output for INT4 (interleaved too), else null. bias may be null. thins has one for each
// adapter; it is null where no step has adapters.
struct Matrix {
    const uint8_t* packed;
    const void* scales;
    const float* bias;
    const Thin* thins;
    int32_t precision;
    int32_t num_outputs;
    int32_t num_inputs;
};

// ln_1 comes before c_attn and ln_2 before c_fc. In a post-norm decoder these are the norms at the
// end of the layer before, null in the first layer, and behind this layer's attention.
struct Layer {
    const float* ln_1_gain;
    const float* ln_1_bias;
    const float* ln_2_gain;
    const float* ln_2_bias;
    Matrix c_attn;
    Matrix attn_proj;
    Matrix c_fc;
    Matrix mlp_proj;
    float score_scale;
};

// keys are (L, S, H, T / 16, D, 16), values (L, S, H, T, D), in float32, bfloat16 or int8. For
// INT8 each has a scale a head and position, (L, S, H, T); else these are null.
struct Cache {
    void* keys;
    void* values;
    float* key_scales;
    float* value_scales;
    int32_t precision;
    int32_t num_slots;
    int32_t num_positions;  // T, a multiple of 16
};

// ln_f is the last norm; in a post-norm decoder that of the last layer. There what a norm returns
// is the residual stream from then on.
struct Decoder {
    const Layer* layers;
    const float* ln_f_gain;
    const float* ln_f_bias;
    int32_t num_layers;
    int32_t num_channels;
    int32_t num_heads;
    int32_t num_inner;
    int32_t activation;
    float epsilon;
    int32_t is_post_norm;
    int32_t max_rank;  // of all adapters, 0 without any
};

// The tokens of one row: `length` of them, from `first_token` on along N and from position
// `start` on in `slot`.
struct Span {
    int64_t slot;
    int64_t start;
    int64_t length;
    int64_t first_token;
};

// One pass: x (N, C) is the sum of the embeddings, and changes; hidden (W, C) takes the final hidden
// states of the `wanted` tokens, ascending indices along N. adapters (N) is the adapter of each
// token, -1 for none; null where no token has one.
struct Step {
    float* x;
    float* hidden;
    const Span* spans;
    const int64_t* wanted;
    const int32_t* adapters;
    int64_t num_tokens;
    int64_t num_spans;
    int64_t num_wanted;
    uint8_t* scratch;  // gpt2_scratch_bytes of them
};
