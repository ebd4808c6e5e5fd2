# A server, its benchmark, a known set of data, and a snapshot of it by a forked child, on a Unix socket.
redis-server --unixsocket "$PWD/redis.sock" --port 0 --save '' --dir "$PWD" --enable-debug-command local \
    --loglevel warning > server.log &
server=$!
trap 'kill $server 2> /dev/null || :' EXIT
command() { redis-cli -s redis.sock "$@"; }
until command ping > ping.log 2>&1; do
    kill -0 $server
    sleep 0.05
done
redis-benchmark -s redis.sock -n 10000 -c 20 -P 8 -r 10000 -q \
    -t set,get,incr,lpush,lpop,sadd,hset,zadd,mset > benchmark.log
command flushall
awk 'BEGIN { for (i = 1; i <= 5000; i++) {
    print "set k" i " v" i * i
    print "lpush l" i % 10 " " i
    print "zadd z " i * 7 % 1000 " m" i
    print "append a" i % 7 " xxxxxxxxxxxxxxxx" i
    print "del k" i - 100
} }' | command > replies.log
cksum replies.log
command bgsave
while command info persistence | grep -q rdb_bgsave_in_progress:1; do sleep 0.05; done
command info persistence | grep last_bgsave_status
command dbsize
command debug digest
command debug reload
command debug digest
command lrange l3 0 2
command shutdown nosave
wait $server
