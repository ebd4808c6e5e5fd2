/* Signal handlers that allocate and free wherever a thread is, also inside an allocation. No C library promises that
 * to work; a kernel's heap must.
 *
 * signals [THREADS [ROUNDS]] */
#include "check.h"
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#define HELD 200
#define HELD_IN_HANDLER 50

static long rounds = 300000;
/* Signals that were handled, and how many must be. */
static volatile long handled;
static const long wanted = 1000;
static volatile int running;
static _Thread_local volatile int nested;
static _Thread_local uint64_t random_in_handler;
static _Thread_local struct block *held_in_handler[HELD_IN_HANDLER];

static void handle(int number)
{
    (void)number;
    /* Another signal would use the array in the middle of this one's use. */
    if (nested)
        return;
    nested = 1;
    if (random_in_handler == 0)
        random_in_handler = 11;
    for (int i = 0; i < 10; i++) {
        struct block **place = &held_in_handler[next_random(&random_in_handler) % HELD_IN_HANDLER];
        free_block(*place);
        *place = make_block(&random_in_handler);
    }
    __atomic_add_fetch(&handled, 1, __ATOMIC_RELAXED);
    nested = 0;
}

static void *churn(void *argument)
{
    uint64_t random = (uint64_t)(uintptr_t)argument;
    struct block *held[HELD] = {0};
    for (long i = 0; i < rounds || handled < wanted; i++) {
        struct block **place = &held[next_random(&random) % HELD];
        free_block(*place);
        *place = make_block(&random);
    }
    for (long i = 0; i < HELD; i++)
        free_block(held[i]);
    sigset_t alarms;
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &alarms, NULL);
    for (long i = 0; i < HELD_IN_HANDLER; i++)
        free_block(held_in_handler[i]);
    __atomic_sub_fetch(&running, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

int main(int count, char **arguments)
{
    long threads = count > 1 ? atol(arguments[1]) : 3;
    rounds = count > 2 ? atol(arguments[2]) : rounds;
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    running = (int)threads;
    pthread_t *ids = calloc((size_t)threads, sizeof *ids);
    for (long i = 0; i < threads; i++)
        CHECK(pthread_create(&ids[i], NULL, churn, (void *)(uintptr_t)(i + 1)) == 0);
    while (running > 0)
        for (long i = 0; i < threads; i++)
            pthread_kill(ids[i], SIGUSR1);
    for (long i = 0; i < threads; i++)
        CHECK(pthread_join(ids[i], NULL) == 0);
    free(ids);
    puts("signal handlers allocated");
    return 0;
}
