/* The rows that recmtl's hashed features look up, in C99, without dependencies.
 *
 *     cc -std=c99 -O2 -o recmtl_hash recmtl_hash.c && ./recmtl_hash vectors.json
 *
 * compares it with every vector and ends with 0 when all are equal. A server needs the functions
 * above the line "The check"; they read bytes in little-endian order on any machine.
 *
 * splitmix64: Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014.
 * XXH3, 64 bits, seed 0, default secret: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Integers. */

static uint64_t splitmix64(uint64_t z) {
    z += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* Strings. */

static const uint32_t P32_1 = 0x9E3779B1, P32_2 = 0x85EBCA77, P32_3 = 0xC2B2AE3D;
static const uint64_t P64_1 = UINT64_C(0x9E3779B185EBCA87), P64_2 = UINT64_C(0xC2B2AE3D27D4EB4F),
                      P64_3 = UINT64_C(0x165667B19E3779F9), P64_4 = UINT64_C(0x85EBCA77C2B2AE63),
                      P64_5 = UINT64_C(0x27D4EB2F165667C5), MX_1 = UINT64_C(0x165667919E3779F9),
                      MX_2 = UINT64_C(0x9FB21C651E98DF25);

enum { SECRET = 192, STRIPE = 64, STEP = 8, STRIPES = (SECRET - STRIPE) / STEP };

static const uint8_t secret[SECRET] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

static uint64_t read32(const uint8_t *p) {
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24;
}

static uint64_t read64(const uint8_t *p) { return read32(p) | read32(p + 4) << 32; }

static uint64_t rotated(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }

static uint64_t swapped(uint64_t x) {
    uint64_t out = 0;
    for (int i = 0; i < 8; i++, x >>= 8) out = out << 8 | (x & 0xff);
    return out;
}

/* The halves of the product of 128 bits, xored. */
static uint64_t folded(uint64_t a, uint64_t b) {
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t low = a0 * b0, cross = a1 * b0 + (low >> 32), other = a0 * b1 + (uint32_t)cross;
    uint64_t high = a1 * b1 + (cross >> 32) + (other >> 32);
    return high ^ (other << 32 | (uint32_t)low);
}

static uint64_t avalanche(uint64_t h) {
    h = (h ^ (h >> 37)) * MX_1;
    return h ^ (h >> 32);
}

static uint64_t old_avalanche(uint64_t h) {
    h = (h ^ (h >> 33)) * P64_2;
    h = (h ^ (h >> 29)) * P64_3;
    return h ^ (h >> 32);
}

static uint64_t mixed(const uint8_t *in, const uint8_t *key) {
    return folded(read64(in) ^ read64(key), read64(in + 8) ^ read64(key + 8));
}

static uint64_t up_to_16(const uint8_t *in, size_t n) {
    if (n > 8) {
        uint64_t low = read64(in) ^ read64(secret + 24) ^ read64(secret + 32);
        uint64_t high = read64(in + n - 8) ^ read64(secret + 40) ^ read64(secret + 48);
        return avalanche(n + swapped(low) + high + folded(low, high));
    }
    if (n >= 4) {
        uint64_t h = (read32(in + n - 4) + (read32(in) << 32)) ^ read64(secret + 8) ^ read64(secret + 16);
        h = (h ^ rotated(h, 49) ^ rotated(h, 24)) * MX_2;
        h = (h ^ ((h >> 35) + n)) * MX_2;
        return h ^ (h >> 28);
    }
    if (n > 0) {
        uint64_t h = (uint64_t)in[0] << 16 | (uint64_t)in[n >> 1] << 24 | in[n - 1] | (uint64_t)n << 8;
        return old_avalanche(h ^ read32(secret) ^ read32(secret + 4));
    }
    return old_avalanche(read64(secret + 56) ^ read64(secret + 64));
}

static uint64_t up_to_240(const uint8_t *in, size_t n) {
    uint64_t sum = n * P64_1;
    if (n <= 128) {
        for (size_t i = (n - 1) / 32 + 1; i-- > 0;) {
            sum += mixed(in + 16 * i, secret + 32 * i);
            sum += mixed(in + n - 16 * (i + 1), secret + 32 * i + 16);
        }
        return avalanche(sum);
    }
    for (size_t i = 0; i < 8; i++) sum += mixed(in + 16 * i, secret + 16 * i);
    sum = avalanche(sum);
    for (size_t i = 8; i < n / 16; i++) sum += mixed(in + 16 * i, secret + 16 * (i - 8) + 3);
    return avalanche(sum + mixed(in + n - 16, secret + 136 - 17));
}

static void accumulate(uint64_t sum[8], const uint8_t *in, const uint8_t *key) {
    for (int i = 0; i < 8; i++) {
        uint64_t value = read64(in + 8 * i), keyed = value ^ read64(key + 8 * i);
        sum[i ^ 1] += value;
        sum[i] += (uint64_t)(uint32_t)keyed * (keyed >> 32);
    }
}

static uint64_t longer(const uint8_t *in, size_t n) {
    uint64_t sum[8] = {P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1};
    const uint8_t *last = in + n - STRIPE;
    size_t stripes = (n - 1) / STRIPE;
    for (size_t s = 0; s < stripes; s++, in += STRIPE) {
        accumulate(sum, in, secret + STEP * (s % STRIPES));
        if (s % STRIPES == STRIPES - 1) {
            for (int i = 0; i < 8; i++) {
                uint64_t h = sum[i] ^ (sum[i] >> 47) ^ read64(secret + SECRET - STRIPE + 8 * i);
                sum[i] = h * P32_1;
            }
        }
    }
    accumulate(sum, last, secret + SECRET - STRIPE - 7);
    uint64_t h = n * P64_1;
    for (int i = 0; i < 4; i++) {
        const uint8_t *key = secret + 11 + 16 * i;
        h += folded(sum[2 * i] ^ read64(key), sum[2 * i + 1] ^ read64(key + 8));
    }
    return avalanche(h);
}

static uint64_t xxh3_64(const uint8_t *in, size_t n) {
    return n <= 16 ? up_to_16(in, n) : n <= 240 ? up_to_240(in, n) : longer(in, n);
}

/* Rows of a table with `hash: size`; row 0 is for nulls. */

static uint64_t row_of_integer(int64_t value, uint64_t size) {
    return 1 + splitmix64((uint64_t)value) % size;
}

static uint64_t row_of_string(const uint8_t *utf8, size_t num_bytes, uint64_t size) {
    return 1 + xxh3_64(utf8, num_bytes) % size;
}

/* The check: one vector a line, each a JSON object of texts and whole numbers. */

enum { LINE = 1 << 14 };

/* Where the value of a key begins, behind the quotation mark of a text; NULL without the key. */
static const char *value_of(const char *line, const char *key) {
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\": ", key);
    const char *at = strstr(line, quoted);
    return at == NULL ? NULL : at + strlen(quoted) + (at[strlen(quoted)] == '"');
}

static size_t bytes_of(const char *hex, uint8_t *out) {
    size_t n = 0;
    unsigned byte;
    while (hex[2 * n] != '"' && sscanf(hex + 2 * n, "%2x", &byte) == 1) out[n++] = (uint8_t)byte;
    return n;
}

/* Compares a vector with what the functions say; how many of its rows are wrong. */
static int wrong_rows(const char *line, int *num_rows) {
    static uint8_t bytes[LINE];
    const char *family = value_of(line, "family"), *value = value_of(line, "value");
    const char *at = strstr(line, "\"rows\": {") + strlen("\"rows\": {");
    int is_null = strncmp(value, "null", 4) == 0, is_text = strncmp(family, "string", 6) == 0;
    int64_t number = is_null || is_text ? 0 : strtoll(value, NULL, 10);
    size_t num_bytes = is_null ? 0 : bytes_of(value_of(line, "utf8"), bytes);
    uint64_t size, expected;
    int wrong = 0, length;
    if (!is_null) {
        uint64_t hash = is_text ? xxh3_64(bytes, num_bytes) : splitmix64((uint64_t)number);
        wrong += hash != strtoull(value_of(line, "hash"), NULL, 16);
    }
    while (sscanf(at, "\"%" SCNu64 "\": %" SCNu64 "%n", &size, &expected, &length) == 2) {
        uint64_t row = is_text ? row_of_string(bytes, num_bytes, size) : row_of_integer(number, size);
        wrong += (is_null ? 0 : row) != expected;
        at += length + strspn(at + length, ", ");
        ++*num_rows;
    }
    return wrong;
}

int main(int argc, char **argv) {
    static char line[LINE];
    int num_vectors = 0, num_rows = 0, num_wrong = 0;
    FILE *file = argc == 2 ? fopen(argv[1], "r") : NULL;
    if (file == NULL) {
        fprintf(stderr, "usage: recmtl_hash vectors.json\n");
        return 2;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        if (strstr(line, "\"rows\": {") == NULL) continue;
        int wrong = wrong_rows(line, &num_rows);
        if (wrong > 0) fprintf(stderr, "wrong: %s", line);
        num_wrong += wrong;
        num_vectors++;
    }
    fclose(file);
    printf("%d vectors, %d rows, %d wrong\n", num_vectors, num_rows, num_wrong);
    return num_vectors == 0 || num_wrong > 0;
}
