# Inserts, an index, aggregates, updates and deletes, in a database that is a file and in one that is memory.
sqlite3 numbers.db < "$(dirname "$0")/sqlite.sql"
sqlite3 :memory: < "$(dirname "$0")/sqlite.sql"
