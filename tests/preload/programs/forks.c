/* Forks while other threads allocate and free: the child allocates, starts threads of its own, and forks again.
 *
 * forks [THREADS [FORKS]] */
#include "check.h"
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define HELD 300

static volatile int ending;

static void *churn(void *argument)
{
    uint64_t random = (uint64_t)(uintptr_t)argument;
    struct block *held[HELD] = {0};
    for (long i = 0; !ending; i++) {
        struct block **place = &held[next_random(&random) % HELD];
        free_block(*place);
        *place = make_block(&random);
    }
    for (long i = 0; i < HELD; i++)
        free_block(held[i]);
    return NULL;
}

/* So much is allocated that a class whose lock nobody frees would show. */
static void *use(void *argument)
{
    uint64_t random = (uint64_t)(uintptr_t)argument;
    struct block **held = calloc(2000, sizeof *held);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 2000; i++)
            held[i] = make_block(&random);
        for (int i = 0; i < 2000; i++)
            free_block(held[i]);
    }
    free(held);
    return NULL;
}

static void wait_for(pid_t child)
{
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void be_a_child(struct block *inherited, int number)
{
    /* A child that hangs is ended. */
    alarm(60);
    free_block(inherited);
    use((void *)(uintptr_t)(number + 1));
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, use, (void *)(uintptr_t)(number + 10 + i)) == 0);
    if (number % 4 == 0) {
        pid_t grandchild = fork();
        if (grandchild == 0) {
            use((void *)(uintptr_t)(number + 20));
            _exit(0);
        }
        wait_for(grandchild);
    }
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    _exit(0);
}

int main(int count, char **arguments)
{
    long threads = count > 1 ? atol(arguments[1]) : 4;
    int forks = count > 2 ? atoi(arguments[2]) : 60;
    uint64_t random = 5;
    pthread_t *ids = calloc((size_t)threads, sizeof *ids);
    for (long i = 0; i < threads; i++)
        CHECK(pthread_create(&ids[i], NULL, churn, (void *)(uintptr_t)(i + 1)) == 0);
    for (int i = 0; i < forks; i++) {
        struct block *inherited = make_block(&random);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0)
            be_a_child(inherited, i);
        free_block(inherited);
        wait_for(child);
    }
    ending = 1;
    for (long i = 0; i < threads; i++)
        CHECK(pthread_join(ids[i], NULL) == 0);
    free(ids);
    printf("%d forks\n", forks);
    return 0;
}
