/* A server's threads (after Larson and Krishnan, "Memory allocation for long-running server applications", 1998):
 * each thread replaces random blocks of its own array, and after some rounds leaves the array to a thread that it
 * starts, and ends. So blocks outlive the threads that allocated them.
 *
 * larson [THREADS [GENERATIONS [ROUNDS [BLOCKS]]]] */
#include "check.h"
#include <pthread.h>

struct share {
    struct block **blocks;
    long generations;
    uint64_t random;
    uint64_t done;
};

static long rounds = 20000, block_count = 1000;

static void *serve(void *argument)
{
    struct share *share = argument;
    for (long i = 0; i < rounds; i++) {
        struct block **place = &share->blocks[next_random(&share->random) % (uint64_t)block_count];
        free_block(*place);
        *place = make_block(&share->random);
        share->done++;
    }
    if (--share->generations > 0) {
        pthread_t next;
        CHECK(pthread_create(&next, NULL, serve, share) == 0);
        return (void *)next;
    }
    return NULL;
}

int main(int count, char **arguments)
{
    long threads = count > 1 ? atol(arguments[1]) : 4;
    long generations = count > 2 ? atol(arguments[2]) : 20;
    rounds = count > 3 ? atol(arguments[3]) : rounds;
    block_count = count > 4 ? atol(arguments[4]) : block_count;
    struct share *shares = calloc((size_t)threads, sizeof *shares);
    pthread_t *running = calloc((size_t)threads, sizeof *running);
    for (long i = 0; i < threads; i++) {
        shares[i] = (struct share){calloc((size_t)block_count, sizeof(struct block *)), generations, (uint64_t)i + 1, 0};
        CHECK(pthread_create(&running[i], NULL, serve, &shares[i]) == 0);
    }
    uint64_t done = 0;
    for (long i = 0; i < threads; i++) {
        void *next = (void *)running[i];
        while (next != NULL)
            CHECK(pthread_join((pthread_t)next, &next) == 0);
        for (long place = 0; place < block_count; place++)
            free_block(shares[i].blocks[place]);
        free(shares[i].blocks);
        done += shares[i].done;
    }
    free(shares);
    free(running);
    printf("%llu blocks replaced\n", (unsigned long long)done);
    return 0;
}
