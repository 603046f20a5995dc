#!/usr/bin/env bash
# Throughput of a pair beside Redis with one replica, measured by the same hand in turn: A B A B ...
#
# A is Redis without persistence, each SET followed by WAIT 1 0, which is the closest that Redis has to the output rule.
# B is a Cutover pair in `memory` durability, SET alone: no reply leaves it before the backup holds the operation.
# With DURABILITY=sync the pair syncs every operation on both disks, and so does Redis: appendfsync always on both.
#
#   RESPLOAD=/path/to/respload deploy/bench.sh            about 4 minutes
#   RESPLOAD=... PAIRS=3 SECS=1 SHAPES="50,1" deploy/bench.sh
#
# RESPLOAD  load generator, any closed-loop one with the command line described in deploy/measured.sh
# CUTOVER   the binary [target/release/cutover, else PATH]
# PAIRS     how many pairs of each shape [9]      SECS  seconds of each run [3]
# DURABILITY  of the pair: memory, buffered or sync [memory]
# SHAPES    connections,pipeline ["1,1 50,1 50,16 256,1"]
#
# Ports on loopback: Redis 7801 and 7802, the group from 7820 on. Nothing else should run on the machine.
# Exit codes: 0 measured, 1 an error reply or a copy lost on the way, 2 usage, 3 something needed is missing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/measured.sh"

[[ ${1:-} != -h && ${1:-} != --help ]] || { sed -n '2,/^set -/p' "${BASH_SOURCE[0]}" | grep '^#' | cut -c 3-; exit 0; }
(($# == 0)) || die 2 "takes no arguments, only environment variables; see --help"
readonly PAIRS=${PAIRS:-9} SECS=${SECS:-3} SHAPES=${SHAPES:-1,1 50,1 50,16 256,1}
readonly REDIS=7801 REDIS_COPY=7802 GROUP_BASE=7820

PERSISTENCE=(--appendonly no)
[[ ${DURABILITY:-memory} != sync ]] || PERSISTENCE=(--appendonly yes --appendfsync always)
readonly PERSISTENCE

start_redis() {
  local port=$1 dir=$SCRATCH/redis-$1
  shift
  port_is_free "$port" || die 3 "port $port is taken"
  mkdir "$dir"
  redis-server --port "$port" --bind 127.0.0.1 --save '' "${PERSISTENCE[@]}" --dir "$dir" "$@" >"$dir.log" 2>&1 </dev/null &
  STARTED+=($!)
}

redis_in_sync() { redis-cli -p $REDIS info replication 2>/dev/null | grep -q '^slave0:.*state=online'; }

# run PORT CONNECTIONS PIPELINE MODE: "ops_per_s p50_us p99_us"; dies on any error reply.
run() {
  local line
  line=$("$RESPLOAD" 127.0.0.1 "$1" "$2" "$3" "$SECS" "$4") || die 1 "the load generator failed on port $1"
  [[ $(figure errors "$line") == 0 ]] || die 1 "error replies on port $1 ($4, $2 connections): $line"
  printf '%s %s %s\n' "$(figure ops_per_s "$line")" "$(figure p50_us "$line")" "$(figure p99_us "$line")"
}

# measure SHAPE: all its pairs, then one line of the table.
measure() {
  local connections=${1%,*} pipeline=${1#*,} before a b out=$SCRATCH/$1
  for ((pair = 1; pair <= PAIRS; pair++)); do
    redis_in_sync || die 1 "Redis' replica is not online"
    a=$(run $REDIS "$connections" "$pipeline" setwait)
    redis_in_sync || die 1 "Redis lost its replica on the way"
    before=$(in_sync_epoch) || die 1 "the pair is not in sync"
    b=$(run "${PRIMARY##*:}" "$connections" "$pipeline" set)
    [[ $(in_sync_epoch) == "$before" ]] || die 1 "the pair changed on the way: epoch $before is over, or a copy is gone"
    printf '%s %s\n' "$a" "$b" >>"$out"
    say "  $connections,$pipeline pair $pair/$PAIRS: Redis ${a%% *}/s, Cutover ${b%% *}/s"
  done
  local column=()
  for field in 1 2 3 4 5 6; do
    column+=("$(awk -v f=$field '{ print $f }' "$out" | median)")
  done
  printf '| %s | %s | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | **%.2f** | %.2f to %.2f |\n' \
    "$connections" "$pipeline" "${column[@]}" \
    "$(awk '{ print $4 / $1 }' "$out" | median)" \
    "$(awk '{ print $4 / $1 }' "$out" | sort -g | head -n 1)" "$(awk '{ print $4 / $1 }' "$out" | sort -g | tail -n 1)"
}

prepare
for command in redis-server redis-cli; do
  command -v "$command" >/dev/null || die 3 "no $command: install Redis"
done
start_redis $REDIS
start_redis $REDIS_COPY --replicaof 127.0.0.1 $REDIS
until_true 30 "Redis' replica online" redis_in_sync
start_group $GROUP_BASE
PRIMARY=$(replica_of primary redis)
readonly PRIMARY
say "warming up"
"$RESPLOAD" 127.0.0.1 $REDIS 50 1 1 setwait >/dev/null
"$RESPLOAD" 127.0.0.1 "${PRIMARY##*:}" 50 1 1 set >/dev/null

printf '%s; %s; %s CPUs, Linux %s, load %s; %s pairs of %s s each, medians\n\n' \
  "$("$CUTOVER" --version)" "$(redis-server --version | cut -d ' ' -f 1-3)" "$(nproc)" "$(uname -r)" \
  "$(cut -d ' ' -f 1 /proc/loadavg)" "$PAIRS" "$SECS"
printf '| connections | pipeline | Redis + WAIT 1, ops/s | p50 us | p99 us | Cutover, ops/s | p50 us | p99 us | ratio | range |\n'
printf '|---|---|---|---|---|---|---|---|---|---|\n'
for shape in $SHAPES; do
  [[ $shape =~ ^[0-9]+,[0-9]+$ ]] || die 2 "SHAPES holds '$shape'; connections,pipeline is wanted"
  measure "$shape"
done
