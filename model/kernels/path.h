// Everything for one instruction set; included once for each, inside a namespace. Sizes of tiles
// follow the number of registers: 32 of 64 bytes, or 16 of 32.

#if defined(USE_AVX512VNNI)
constexpr int MAX_ROWS = 8;  // rows times vectors of columns in a product's inner loop
constexpr int VECTORS = 3;
constexpr int ATTENTION_ROWS = 4;  // queries, and tiles of 16 keys, in attention's
constexpr int ATTENTION_TILES = 4;
#else
constexpr int MAX_ROWS = 4;
constexpr int VECTORS = 1;
constexpr int ATTENTION_ROWS = 4;
constexpr int ATTENTION_TILES = 1;
#endif
constexpr int64_t PANEL_ROWS = 64;  // rows of a piece of a product that one thread takes

#include "simd.h"
#include "rows.h"
#include "adapters.h"
#include "products.h"
#include "attention.h"
#include "decoder.h"
