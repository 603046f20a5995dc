#!/usr/bin/env bash
# A state transfer under load, and memory: what a lost backup's successor costs the primary and its clients.
#
# A pair is filled, its backup is killed, and an empty replica joins while clients write at a fixed rate. Told: how long
# it took until that replica was in sync; the writers' p99 in segments of SEGMENT seconds, with the transfer and without
# it; turns of both loops over 20 ms by their own histograms; the primary's peak memory beside its quiet size; and
# memory per key beside Redis' for the same data.
#
#   RESPLOAD=/path/to/respload deploy/transfer.sh            about 2 minutes with 10 million keys
#   RESPLOAD=... KEYS=1000000 deploy/transfer.sh
#
# RESPLOAD  load generator, see deploy/measured.sh; here it must also take KEYS VALUE_BYTES RATE as arguments 7 to 9
# CUTOVER   the binary [target/release/cutover, else PATH]
# KEYS      how many [10000000]      VALUE    bytes of each value [64]
# RATE      writes a second [5000]   SEGMENT  seconds [2]      QUIET  segments without a transfer [4]
# JOINER    further options of the replica that joins [none]
# REDIS     0 leaves Redis out [1]               PORTS    100 ports on loopback from here on are used [7900]
#
# Nothing else should run on the machine.
# Exit codes: 0 measured, 1 something failed on the way, 2 usage, 3 something needed is missing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/measured.sh"

[[ ${1:-} != -h && ${1:-} != --help ]] || { sed -n '2,/^set -/p' "${BASH_SOURCE[0]}" | grep '^#' | cut -c 3-; exit 0; }
(($# == 0)) || die 2 "takes no arguments, only environment variables; see --help"
readonly KEYS=${KEYS:-10000000} VALUE=${VALUE:-64} RATE=${RATE:-5000} SEGMENT=${SEGMENT:-2} QUIET=${QUIET:-4}
readonly JOINER=${JOINER:-} REDIS=${REDIS:-1} PORTS=${PORTS:-7900}
readonly REDIS_PORT=$((PORTS + 1)) GROUP_BASE=$((PORTS + 10)) JOINER_PORT=$((PORTS + 90))

# fill PORT: every key once, as MSETs of 100.
fill() {
  awk -v n="$KEYS" -v bytes="$VALUE" 'BEGIN {
    for (i = 0; i < bytes; i++) value = value "x"
    tail = "$" bytes "\r\n" value "\r\n"
    for (key = 0; key < n; key += 100) {
      last = key + 100 < n ? key + 100 : n
      printf "*%d\r\n$4\r\nMSET\r\n", 1 + 2 * (last - key)
      for (at = key; at < last; at++) printf "$12\r\nk:%010d\r\n%s", at, tail
    }
  }' | redis-cli -p "$1" --pipe >"$SCRATCH/fill" 2>&1 || die 1 "filling port $1 failed: $(tail -n 3 "$SCRATCH/fill")"
  grep -q 'errors: 0' "$SCRATCH/fill" || die 1 "filling port $1 failed: $(tail -n 3 "$SCRATCH/fill")"
}

memory() { awk -v what="$2:" '$1 == what { print $2 * 1024 }' "/proc/$1/status"; }
process_of() { redis-cli -p "$1" info server | tr -d '\r' | awk -F: '$1 == "process_id" { print $2 }'; }
get() { (exec 3<>"/dev/tcp/127.0.0.1/$1"; printf 'GET %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n' "$2" >&3; cat <&3) 2>/dev/null; }
# long_turns HTTP_PORT: how many turns of its loop took more than 20 ms since it started.
long_turns() {
  get "$1" /metrics | awk '/^cutover_turn_seconds_bucket\{le="0.02"\}/ { within = $2 }
    /^cutover_turn_seconds_bucket\{le="\+Inf"\}/ { all = $2 } END { print all - within }'
}
segment() {
  local line
  line=$("$RESPLOAD" 127.0.0.1 "$PRIMARY" 16 1 "$SEGMENT" set "$KEYS" "$VALUE" "$RATE") || die 1 "the writers failed: $line"
  figure p99_us "$line"
}
joined() { get $((JOINER_PORT + 3)) /backup | grep -q '^HTTP/1.1 200'; }
alone() { ! both_in_sync; }
mb() { awk -v bytes="$1" 'BEGIN { printf "%.0f MB", bytes / 1e6 }'; }

prepare
for command in redis-cli awk; do
  command -v "$command" >/dev/null || die 3 "no $command"
done
start_group $GROUP_BASE
PRIMARY=$(replica_of primary redis) BACKUP=$(replica_of backup redis) HTTP=$(replica_of primary http)
PRIMARY=${PRIMARY##*:} BACKUP=${BACKUP##*:} HTTP=${HTTP##*:}
readonly PRIMARY BACKUP HTTP
PRIMARY_PID=$(process_of "$PRIMARY") BACKUP_PID=$(process_of "$BACKUP")
empty=$(memory "$PRIMARY_PID" VmRSS)
say "filling the pair with $KEYS keys"
fill "$PRIMARY"
until_true 60 "both in sync after filling" both_in_sync
full=$(memory "$PRIMARY_PID" VmRSS) counted=$(redis-cli -p "$PRIMARY" info memory | tr -d '\r' | awk -F: '$1 == "used_memory_dataset" { print $2 }')
say "killing the backup"
kill -KILL "$BACKUP_PID"
until_true 30 "the backup removed" alone

say "writing $RATE/s without a transfer"
for ((at = 0; at < QUIET; at++)); do segment; done >"$SCRATCH/quiet"
quiet=$(memory "$PRIMARY_PID" VmRSS) turns=$(long_turns "$HTTP")
echo 5 >"/proc/$PRIMARY_PID/clear_refs"

say "an empty replica joins"
arbiters=$(grep -o '"arbiters": *\[[^]]*\]' <<<"$(tr -d '\n' <"$GROUP_DIR/dev.json")" | grep -oE '[0-9.]+:[0-9]+' | paste -sd ,)
group=$(grep -o '"group": *"[^"]*"' "$GROUP_DIR/dev.json" | cut -d '"' -f 4)
begun=$(date +%s.%N)
# shellcheck disable=SC2086 # JOINER is a list of options
"$CUTOVER" replica --name joiner --group "$group" --arbiters "$arbiters" --data "$SCRATCH/joiner" \
  --redis-port $JOINER_PORT --client-port $((JOINER_PORT + 1)) --peer-port $((JOINER_PORT + 2)) \
  --http-port $((JOINER_PORT + 3)) $JOINER </dev/null >"$SCRATCH/joiner.log" 2>&1 &
JOINER_PID=$!
STARTED+=($JOINER_PID)
(
  until_true 120 "the joiner in sync: $(tail -n 3 "$SCRATCH/joiner.log")" joined
  date +%s.%N >"$SCRATCH/ended"
) &
watcher=$!
until [[ -e $SCRATCH/ended ]]; do
  kill -0 $watcher 2>/dev/null && kill -0 $JOINER_PID 2>/dev/null || [[ -e $SCRATCH/ended ]] || die 1 "the joiner never was in sync: $(tail -n 3 "$SCRATCH/joiner.log")"
  segment >>"$SCRATCH/during"
done
took=$(awk -v a="$begun" -v b="$(<"$SCRATCH/ended")" 'BEGIN { printf "%.1f", b - a }')
peak=$(memory "$PRIMARY_PID" VmHWM)
until_true 30 "both in sync" both_in_sync

redis_key=- redis_line=-
if ((REDIS)); then
  command -v redis-server >/dev/null || die 3 "no redis-server: install Redis, or set REDIS=0"
  say "filling Redis"
  redis-server --port $REDIS_PORT --bind 127.0.0.1 --save '' --appendonly no --dir "$SCRATCH" >"$SCRATCH/redis.log" 2>&1 </dev/null &
  STARTED+=($!)
  redis_pid=$!
  until_true 10 "Redis" redis-cli -p $REDIS_PORT ping >/dev/null
  redis_empty=$(memory $redis_pid VmRSS)
  fill $REDIS_PORT
  redis_line=$(mb "$(memory $redis_pid VmRSS)")
  redis_key=$((($(memory $redis_pid VmRSS) - redis_empty) / KEYS))
fi

# A segment that begins within the transfer and ends after it is one of both; the first ones are all within.
worst() { sort -g "$1" | tail -n 1; }
printf '%s; %s CPUs, Linux %s; %s keys of 12 bytes, values of %s bytes, %s writes/s by 16 connections\n\n' \
  "$("$CUTOVER" --version)" "$(nproc)" "$(uname -r)" "$KEYS" "$VALUE" "$RATE"
printf '| | |\n|---|---|\n'
printf '| from the start of an empty replica until it is in sync | **%s s** |\n' "$took"
printf '| writers p99 without a transfer, median (worst) of %s segments | %s us (%s us) |\n' "$QUIET" "$(median <"$SCRATCH/quiet")" "$(worst "$SCRATCH/quiet")"
printf '| writers p99 during it, median (worst) of %s segments | **%s us** (%s us) |\n' "$(wc -l <"$SCRATCH/during")" "$(median <"$SCRATCH/during")" "$(worst "$SCRATCH/during")"
printf '| turns over 20 ms during it: source, joiner | %s, %s |\n' "$(($(long_turns "$HTTP") - turns))" "$(long_turns $((JOINER_PORT + 3)))"
printf '| memory of the source: quiet, peak during it | %s, %s (**%s**) |\n' "$(mb "$quiet")" "$(mb "$peak")" "$(awk -v a="$peak" -v b="$quiet" 'BEGIN { printf "%.2f", a / b }')"
printf '| memory of the joiner afterwards | %s |\n' "$(mb "$(memory $JOINER_PID VmRSS)")"
printf '| memory per key: Cutover, as it counts, Redis | **%s** bytes, %s, %s |\n' "$(((full - empty) / KEYS))" "$((counted / KEYS))" "$redis_key"
printf '| memory of the process with all keys: Cutover, Redis | %s, %s |\n' "$(mb "$full")" "$redis_line"
