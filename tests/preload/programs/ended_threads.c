/* Many more threads than there are CPUs' numbers, one after another: each is given the number of one that has ended, and
 * so has magazines. The run's counts are those of magazines only.
 *
 * ended_threads [THREADS] */
#include "check.h"
#include <pthread.h>

static void *use(void *argument)
{
    for (int i = 0; i < 1000; i++) {
        void *volatile memory = malloc(100);
        CHECK(memory != NULL);
        free(memory);
    }
    return argument;
}

int main(int count, char **arguments)
{
    long threads = count > 1 ? atol(arguments[1]) : 2000;
    for (long i = 0; i < threads; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, use, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    printf("%ld threads, one after another\n", threads);
    return 0;
}
