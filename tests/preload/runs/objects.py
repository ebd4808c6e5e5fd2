"""Makes and drops objects of many kinds and sizes, on threads that pass them to each other."""

import hashlib
import json
import re
import threading

THREADS = 8
ROUNDS = 3000
shared = [None] * 4000


def work(seed):
    state = seed
    digest = hashlib.sha256()
    for number in range(ROUNDS):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        text = str(state) * (1 + state % 13)
        value = {"n": number, "words": text.split("9"), "big": state ** (1 + number % 40)}
        encoded = json.dumps({"n": value["n"], "words": value["words"]})
        digest.update(encoded.encode())
        digest.update(re.sub("[135]", "-", text).encode())
        digest.update(bytes(state % 5000))
        # Whoever comes next drops what was there: mostly another thread's.
        shared[state % len(shared)] = (value, encoded, bytearray(state % 3000))
    results[seed - 1] = digest.hexdigest()


results = [None] * THREADS
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, THREADS + 1)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
shared.clear()
print("\n".join(results))
