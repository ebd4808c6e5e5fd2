/* Every entry point, with its corner cases. It runs on this library only: glibc answers some of them otherwise. */
#include "check.h"
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static const size_t PAGE = 4096;
static const size_t GIB = (size_t)1 << 30;

/* The compiler must not know what is allocated and how much. */
static volatile size_t zero = 0;

static int all_are(const void *memory, unsigned char byte, size_t size)
{
    const unsigned char *bytes = memory;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != byte)
            return 0;
    return 1;
}

/* The heap's own size classes: that is how we know that it is this library that answers. */
static void sizes(void)
{
    const size_t expected[][2] = {{1, 8}, {8, 8}, {9, 16}, {20, 32}, {65, 80}, {100, 112}, {1000, 1024}, {16384, 16384}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        void *memory = malloc(expected[i][0]);
        CHECK(malloc_usable_size(memory) == expected[i][1]);
        free(memory);
    }
    CHECK(malloc_usable_size(NULL) == 0);
    for (size_t size = 0; size < 20000; size += 1 + size / 50) {
        char *memory = malloc(size);
        CHECK(memory != NULL && malloc_usable_size(memory) >= size);
        CHECK((uintptr_t)memory % (size <= 8 ? 8 : 16) == 0);
        memset(memory, 1, malloc_usable_size(memory));
        free(memory);
    }
}

static void nothing(void)
{
    free(NULL);
    void *first = malloc(zero), *second = malloc(zero), *third = calloc(zero, 5), *fourth = memalign(64, zero);
    CHECK(first && second && third && fourth);
    CHECK(first != second && second != third && third != fourth);
    free(first);
    free(second);
    free(third);
    free(fourth);
}

static void too_much(void)
{
    const size_t most = SIZE_MAX - zero;
    void *kept = malloc(100);
    memset(kept, 7, 100);
#define FAILS(call) \
    errno = 0; \
    CHECK((call) == NULL && errno == ENOMEM)
    FAILS(malloc(most));
    FAILS(malloc(most / 2 - 100));
    FAILS(malloc((size_t)1 << 62));
    FAILS(calloc(most, 2));
    FAILS(calloc(2, most));
    FAILS(calloc(most / 2, 2));
    FAILS(calloc(((size_t)1 << 33) + zero, (size_t)1 << 33));
    FAILS(realloc(kept, most));
    FAILS(realloc(kept, most / 2 - 100));
    FAILS(reallocarray(kept, most, 2));
    FAILS(reallocarray(kept, ((size_t)1 << 33) + zero, (size_t)1 << 33));
    FAILS(memalign(64, most - 10));
    FAILS(aligned_alloc(PAGE, most));
    FAILS(memalign((size_t)1 << 62, 1));
    FAILS(valloc(most));
    FAILS(pvalloc(most));
    FAILS(pvalloc(most - 5000));
    void *place = kept;
    errno = 0;
    CHECK(posix_memalign(&place, 64, most) == ENOMEM && place == kept && errno == 0);
    /* This one asks the system, which has no such room either. */
    CHECK(posix_memalign(&place, 64, (size_t)1 << 61) == ENOMEM && place == kept && errno == 0);
    CHECK(all_are(kept, 7, 100));
    free(kept);
}

static void zeroed(void)
{
    for (size_t size = 1; size < 3000000; size = size * 3 + 1) {
        for (int round = 0; round < 3; round++) {
            unsigned char *memory = calloc(size, 1);
            CHECK(memory != NULL && all_are(memory, 0, size));
            memset(memory, 0xff, malloc_usable_size(memory));
            free(memory);
        }
    }
    uint64_t *words = calloc(1000, sizeof *words);
    CHECK(all_are(words, 0, 1000 * sizeof *words));
    free(words);
}

static void resized(void)
{
    unsigned char *memory = realloc(NULL, 10);
    CHECK(memory != NULL);
    memset(memory, 1, 10);
    size_t size = 10;
    unsigned char byte = 1;
    for (size_t next = 12; next < 20000000; next = next * 5 / 4) {
        memory = realloc(memory, next);
        CHECK(memory != NULL && all_are(memory, byte, size < next ? size : next));
        CHECK((uintptr_t)memory % 16 == 0);
        size = next;
        memset(memory, ++byte, size);
    }
    for (size_t next = size; next > 0; next = next * 2 / 3) {
        memory = realloc(memory, next);
        CHECK(memory != NULL && all_are(memory, byte, next));
    }
    CHECK(realloc(memory, zero) == NULL);
    memory = reallocarray(NULL, 10, 10);
    CHECK(malloc_usable_size(memory) >= 100);
    memory = reallocarray(memory, 30, 10);
    CHECK(malloc_usable_size(memory) >= 300);
    free(memory);
    /* Memory that was aligned to more is resized like any other. */
    memory = aligned_alloc(PAGE, 100);
    memset(memory, 3, 100);
    memory = realloc(memory, 100000);
    CHECK(all_are(memory, 3, 100));
    free(memory);
}

static void aligned(void)
{
    for (size_t align = 1; align <= 64 * 1024 * 1024; align *= 2) {
        for (size_t size = 0; size < 100000; size = size * 7 + 1) {
            unsigned char *memory = memalign(align, size);
            CHECK(memory != NULL && (uintptr_t)memory % align == 0 && malloc_usable_size(memory) >= size);
            memset(memory, 0xee, size);
            void *other = aligned_alloc(align, size);
            CHECK(other != NULL && (uintptr_t)other % align == 0);
            void *third = NULL;
            int error = posix_memalign(&third, align, size);
            CHECK(align < sizeof(void *) ? error == EINVAL && third == NULL : error == 0 && (uintptr_t)third % align == 0);
            CHECK(all_are(memory, 0xee, size));
            free(memory);
            free(other);
            free(third);
        }
    }
    const size_t wrong[] = {0, 3, 24, 48, 4095, SIZE_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        void *place = &place;
        errno = 0;
        CHECK(posix_memalign(&place, wrong[i], 100) == EINVAL && place == &place && errno == 0);
        CHECK(memalign(wrong[i], 100) == NULL && errno == EINVAL);
        errno = 0;
        CHECK(aligned_alloc(wrong[i], 100) == NULL && errno == EINVAL);
    }
    void *first = valloc(100), *second = pvalloc(100), *third = pvalloc(PAGE + 1), *fourth = pvalloc(zero);
    CHECK((uintptr_t)first % PAGE == 0 && (uintptr_t)second % PAGE == 0 && (uintptr_t)third % PAGE == 0);
    CHECK(malloc_usable_size(second) >= PAGE && malloc_usable_size(third) >= 2 * PAGE && fourth != NULL);
    free(first);
    free(second);
    free(third);
    free(fourth);
}

/* Beyond the largest run of pages: mappings. */
static void giant(void)
{
    const size_t sizes[] = {GIB, GIB + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *memory = malloc(sizes[i]);
        CHECK(memory != NULL && malloc_usable_size(memory) >= sizes[i]);
        memory[0] = 1;
        memory[sizes[i] / 2] = 2;
        memory[sizes[i] - 1] = 3;
        unsigned char *moved = realloc(memory, sizes[i] + 5 * GIB);
        CHECK(moved != NULL && moved[0] == 1 && moved[sizes[i] / 2] == 2 && moved[sizes[i] - 1] == 3);
        moved[sizes[i] + 5 * GIB - 1] = 4;
        moved = realloc(moved, 1000);
        CHECK(moved != NULL && moved[0] == 1);
        errno = 5;
        free(moved);
        CHECK(errno == 5);
    }
    unsigned char *memory = memalign(4 * GIB, 100);
    CHECK(memory != NULL && (uintptr_t)memory % (4 * GIB) == 0 && malloc_usable_size(memory) >= 100);
    memset(memory, 9, malloc_usable_size(memory));
    free(memory);
    memory = calloc(2, GIB);
    CHECK(memory != NULL && memory[0] == 0 && memory[2 * GIB - 1] == 0);
    free(memory);
}

static void errno_stays(void)
{
    errno = 77;
    void *memory[300];
    for (size_t i = 0; i < 300; i++)
        memory[i] = malloc(i * i);
    for (size_t i = 0; i < 300; i++)
        free(memory[i]);
    CHECK(errno == 77);
    malloc_trim(0);
    CHECK(errno == 77);
}

static size_t resident_pages(void)
{
    size_t all, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%zu %zu", &all, &resident) == 2);
    fclose(file);
    return resident;
}

static void trimmed(void)
{
    const size_t count = 64, size = 1 << 20;
    size_t before = resident_pages();
    void *memory[64];
    for (size_t i = 0; i < count; i++) {
        memory[i] = malloc(size);
        memset(memory[i], 1, size);
    }
    size_t held = resident_pages();
    CHECK(held >= before + count * (size / PAGE) - 1024);
    for (size_t i = 0; i < count; i++)
        free(memory[i]);
    CHECK(malloc_trim(0) == 1);
    CHECK(resident_pages() < before + 2048);
    unsigned char *again = malloc(size);
    memset(again, 2, size);
    CHECK(all_are(again, 2, size));
    free(again);
}

/* `realloc` to no bytes frees. */
static void resized_to_nothing(void)
{
    const size_t size = 1 << 20;
    size_t before = resident_pages();
    for (int i = 0; i < 200; i++) {
        void *memory = malloc(size);
        CHECK(memory != NULL);
        memset(memory, 1, size);
        CHECK(realloc(memory, zero) == NULL);
    }
    CHECK(resident_pages() < before + 10000);
}

/* Memory that is zero anyway is not written to, even if it was used before. */
static void zeroed_when_touched(void)
{
    const size_t size = (size_t)32 << 20;
    unsigned char *memory = malloc(size);
    CHECK(memory != NULL);
    memset(memory, 0xff, size);
    size_t before = resident_pages();
    free(memory);
    memory = calloc(size, 1);
    CHECK(memory != NULL && resident_pages() + size / 4096 - 500 < before);
    CHECK(all_are(memory, 0, size));
    free(memory);
}

/* Does `act` end the process by abort, having said so? */
static int aborts(void (*act)(void))
{
    int pipes[2], status = 0;
    CHECK(pipe(pipes) == 0);
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        dup2(pipes[1], 2);
        act();
        _exit(0);
    }
    close(pipes[1]);
    char text[200] = "";
    CHECK(read(pipes[0], text, sizeof text - 1) >= 0);
    close(pipes[0]);
    CHECK(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strstr(text, "topomem-preload: free of 0x") != NULL;
}

static void free_twice(void)
{
    void *memory = malloc(100000);
    free(memory);
    free(memory);
}

static void free_inside(void)
{
    free((char *)malloc(100000) + 4096);
}

static void free_of_a_variable(void)
{
    static long variable[4];
    void *volatile address = &variable[1];
    free(address);
}

static void resize_of_a_variable(void)
{
    static long variable[4];
    void *volatile address = &variable[1];
    CHECK(realloc(address, 100) != NULL);
}

static void misuse(void)
{
    CHECK(aborts(free_twice));
    CHECK(aborts(free_inside));
    CHECK(aborts(free_of_a_variable));
    CHECK(aborts(resize_of_a_variable));
}

int main(void)
{
    sizes();
    nothing();
    too_much();
    zeroed();
    resized();
    aligned();
    giant();
    errno_stays();
    trimmed();
    zeroed_when_touched();
    resized_to_nothing();
    misuse();
    puts("every entry point is as it should be");
    return 0;
}
