/* Threads that allocate and threads that free (as in the benchmark xmalloc-test of Lever and Boreham, 2000): batches
 * of blocks go from a producer to whichever consumer comes first.
 *
 * xmalloc [PAIRS [BATCHES]] */
#include "check.h"
#include <pthread.h>

#define BATCH 500
/* Batches that may wait. */
#define WAITING 16

struct batch {
    struct batch *next;
    struct block *blocks[BATCH];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct batch *first;
static long waiting, to_come, batches = 400;

static void *produce(void *argument)
{
    uint64_t random = (uint64_t)(uintptr_t)argument;
    for (long i = 0; i < batches; i++) {
        struct batch *batch = malloc(sizeof *batch);
        for (size_t j = 0; j < BATCH; j++)
            batch->blocks[j] = make_block(&random);
        pthread_mutex_lock(&lock);
        while (waiting >= WAITING)
            pthread_cond_wait(&changed, &lock);
        batch->next = first;
        first = batch;
        waiting++;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static void *consume(void *argument)
{
    uint64_t *freed = argument;
    for (;;) {
        pthread_mutex_lock(&lock);
        while (first == NULL && to_come > 0)
            pthread_cond_wait(&changed, &lock);
        struct batch *batch = first;
        if (batch != NULL) {
            first = batch->next;
            waiting--;
            to_come--;
        }
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
        if (batch == NULL)
            return NULL;
        for (size_t j = 0; j < BATCH; j++)
            free_block(batch->blocks[j]);
        *freed += BATCH;
        free(batch);
    }
}

int main(int count, char **arguments)
{
    long pairs = count > 1 ? atol(arguments[1]) : 2;
    batches = count > 2 ? atol(arguments[2]) : batches;
    to_come = pairs * batches;
    pthread_t *threads = calloc((size_t)pairs * 2, sizeof *threads);
    uint64_t *freed = calloc((size_t)pairs, sizeof *freed);
    for (long i = 0; i < pairs; i++) {
        CHECK(pthread_create(&threads[2 * i], NULL, produce, (void *)(uintptr_t)(i + 1)) == 0);
        CHECK(pthread_create(&threads[2 * i + 1], NULL, consume, &freed[i]) == 0);
    }
    uint64_t sum = 0;
    for (long i = 0; i < pairs; i++) {
        CHECK(pthread_join(threads[2 * i], NULL) == 0);
        CHECK(pthread_join(threads[2 * i + 1], NULL) == 0);
        sum += freed[i];
    }
    free(threads);
    free(freed);
    printf("%llu blocks freed by other threads\n", (unsigned long long)sum);
    return 0;
}
