/* What the programs have in common: checks, random numbers, and blocks whose bytes tell whose they are. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ends the program if the condition does not hold. */
#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

/* xorshift64: the state must not be 0. */
static inline uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

/* Mostly small sizes, some up to a page, few beyond. */
static inline size_t random_size(uint64_t *state)
{
    uint64_t random = next_random(state);
    unsigned kind = (unsigned)(random % 100);
    random >>= 8;
    if (kind < 80)
        return 1 + random % 256;
    if (kind < 97)
        return 1 + random % 4096;
    if (kind < 99)
        return 1 + random % 40000;
    return 1 + random % 300000;
}

/* A block: its size, a mark, and bytes at its end that depend on both. */
struct block {
    size_t size;
    uint64_t mark;
};

static inline unsigned char last_byte(const struct block *block)
{
    return (unsigned char)(block->size * 31 + block->mark);
}

static inline struct block *make_block(uint64_t *state)
{
    size_t size = sizeof(struct block) + random_size(state);
    struct block *block = malloc(size);
    CHECK(block != NULL);
    CHECK((uintptr_t)block % 16 == 0);
    block->size = size;
    block->mark = next_random(state);
    ((unsigned char *)block)[size - 1] = last_byte(block);
    return block;
}

static inline void free_block(struct block *block)
{
    if (block == NULL)
        return;
    CHECK(((unsigned char *)block)[block->size - 1] == last_byte(block));
    block->size = 0;
    free(block);
}
