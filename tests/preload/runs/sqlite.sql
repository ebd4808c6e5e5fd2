PRAGMA journal_mode = MEMORY;
PRAGMA synchronous = OFF;
CREATE TABLE items(id INTEGER PRIMARY KEY, key TEXT, amount INTEGER, note BLOB);
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 60000)
INSERT INTO items SELECT n, 'key' || (n * 7919 % 10007), n * n % 1000, zeroblob(n % 300) FROM numbers;
CREATE INDEX by_key ON items(key, amount);
SELECT count(*), sum(amount), avg(length(note)) FROM items;
SELECT key, count(*) AS found, group_concat(amount) FROM items GROUP BY key ORDER BY found DESC, key LIMIT 5;
UPDATE items SET note = zeroblob(amount) WHERE amount % 3 = 0;
DELETE FROM items WHERE id % 5 = 0;
SELECT a.key, count(*) FROM items AS a JOIN items AS b ON a.key = b.key AND a.id < b.id
    GROUP BY a.key ORDER BY 2 DESC, 1 LIMIT 5;
SELECT hex(substr(group_concat(amount, '-'), -40)), total(length(note)) FROM (SELECT * FROM items ORDER BY amount, id);
PRAGMA integrity_check;
