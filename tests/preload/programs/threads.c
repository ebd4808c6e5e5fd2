/* More threads at the same time than there are CPUs' numbers, and allocations at the ends of threads and of the program.
 *
 * threads [THREADS [ROUNDS]] */
#include "check.h"
#include <pthread.h>

#define HELD 20

static pthread_barrier_t all_run;
static pthread_key_t first_key, last_key;
static long rounds = 200;
static struct block **left;
static _Thread_local struct block *own;

/* Runs when its thread ends, maybe after the library's own destructor, and again as often as there is a value. */
static void at_end_of_thread(void *value)
{
    uint64_t random = (uint64_t)(uintptr_t)value;
    struct block *block = make_block(&random);
    free_block(own);
    own = block;
    if (((uintptr_t)value & 3) != 3)
        CHECK(pthread_setspecific(last_key, (void *)((uintptr_t)value + 1)) == 0);
    else {
        free_block(own);
        own = NULL;
    }
}

static void *run(void *argument)
{
    long index = (long)(intptr_t)argument;
    uint64_t random = (uint64_t)index + 1;
    struct block *held[HELD] = {0};
    CHECK(pthread_setspecific(first_key, (void *)(uintptr_t)(index * 4 + 4)) == 0);
    for (long i = 0; i < HELD; i++)
        held[i] = make_block(&random);
    /* All of them have allocated, and none has ended. */
    pthread_barrier_wait(&all_run);
    for (long i = 0; i < rounds; i++) {
        struct block **place = &held[next_random(&random) % HELD];
        free_block(*place);
        *place = make_block(&random);
    }
    for (long i = 1; i < HELD; i++)
        free_block(held[i]);
    left[index] = held[0];
    return NULL;
}

/* Blocks that come and go. Two threads that act on one CPU get the same ones. */
static void churn(uint64_t random)
{
    struct block *held[HELD] = {0};
    for (long i = 0; i < 300000; i++) {
        struct block **place = &held[next_random(&random) % HELD];
        free_block(*place);
        *place = make_block(&random);
    }
    for (long i = 0; i < HELD; i++)
        free_block(held[i]);
}

static pthread_key_t ending_key;
static pthread_barrier_t both_run;

/* The second time the library's own destructor has run, and the thread's number is another's. */
static void ends_slowly(void *value)
{
    if (value == (void *)1) {
        CHECK(pthread_setspecific(ending_key, (void *)2) == 0);
        return;
    }
    pthread_barrier_wait(&both_run);
    pthread_barrier_wait(&both_run);
    churn(5);
}

static void *end(void *argument)
{
    CHECK(pthread_setspecific(ending_key, (void *)1) == 0);
    free(malloc(10));
    return argument;
}

static void *begin(void *argument)
{
    free(malloc(10));
    pthread_barrier_wait(&both_run);
    churn(6);
    return argument;
}

/* A thread that is about to end and one that has just begun have no number in common. */
static void take_over(void)
{
    pthread_t ending, beginning;
    CHECK(pthread_key_create(&ending_key, ends_slowly) == 0);
    pthread_barrier_init(&both_run, NULL, 2);
    CHECK(pthread_create(&ending, NULL, end, NULL) == 0);
    pthread_barrier_wait(&both_run);
    CHECK(pthread_create(&beginning, NULL, begin, NULL) == 0);
    CHECK(pthread_join(ending, NULL) == 0);
    CHECK(pthread_join(beginning, NULL) == 0);
    pthread_barrier_destroy(&both_run);
    CHECK(pthread_key_delete(ending_key) == 0);
}

enum { TAKEN = 64, FREED = 10, SIZE = 3000 };
static void *taken[TAKEN];

/* Frees few enough of what it has for them to stay in its magazines. */
static void *free_some(void *argument)
{
    for (int i = 0; i < TAKEN; i++)
        taken[i] = malloc(SIZE);
    for (int i = 0; i < FREED; i++)
        free(taken[4 * i]);
    return argument;
}

/* What a thread has kept for itself goes back when it ends: another one is given it before there is a new slab. */
static void give_back(void)
{
    enum { MOST = 5000 };
    static void *given[MOST];
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, free_some, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    int found = 0, count = 0;
    while (found < FREED) {
        CHECK(count < MOST);
        given[count] = malloc(SIZE);
        for (int i = 0; i < FREED; i++)
            found += given[count] == taken[4 * i];
        count++;
    }
    while (count > 0)
        free(given[--count]);
    for (int i = 0; i < TAKEN; i++)
        if (i % 4 != 0 || i >= 4 * FREED)
            free(taken[i]);
}

static void at_exit(void)
{
    uint64_t random = 99;
    free_block(make_block(&random));
    puts("an allocation at the program's end");
}

__attribute__((constructor)) static void at_start(void)
{
    uint64_t random = 98;
    free_block(make_block(&random));
    atexit(at_exit);
}

__attribute__((destructor)) static void at_very_end(void)
{
    uint64_t random = 97;
    free_block(make_block(&random));
}

int main(int count, char **arguments)
{
    long threads = count > 1 ? atol(arguments[1]) : 600;
    rounds = count > 2 ? atol(arguments[2]) : rounds;
    left = calloc((size_t)threads, sizeof *left);
    pthread_t *ids = calloc((size_t)threads, sizeof *ids);
    CHECK(pthread_key_create(&first_key, at_end_of_thread) == 0);
    CHECK(pthread_key_create(&last_key, at_end_of_thread) == 0);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 * 1024);
    for (int generation = 0; generation < 2; generation++) {
        pthread_barrier_init(&all_run, NULL, (unsigned)threads);
        for (long i = 0; i < threads; i++)
            CHECK(pthread_create(&ids[i], &small, run, (void *)(intptr_t)i) == 0);
        for (long i = 0; i < threads; i++) {
            CHECK(pthread_join(ids[i], NULL) == 0);
            free_block(left[i]);
        }
        pthread_barrier_destroy(&all_run);
    }
    free(ids);
    free(left);
    /* They meet by chance. */
    for (int i = 0; i < 5; i++)
        take_over();
    give_back();
    printf("%ld threads, twice\n", threads);
    return 0;
}
