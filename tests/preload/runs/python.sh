# Every object of Python's comes from malloc, on eight threads.
PYTHONMALLOC=malloc python3 "$(dirname "$0")/objects.py"
