#!/usr/bin/env bash
# A state transfer under load, and memory: what a lost backup's successor costs the primary and its clients.
#
# A pair is filled, its backup is killed, and an empty replica joins while clients write at a fixed rate. Told: how long
# it took until that replica was in sync; the writers' p99 in segments of SEGMENT seconds, with the transfer and without
# it; turns of both loops over 20 ms by their own histograms; the primary's peak memory beside its quiet size;
# memory per key beside Redis' for the same data; and that both copies are equal then, and the joiner takes over.
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

segment() {
  local line
  line=$("$RESPLOAD" 127.0.0.1 "$PRIMARY" 16 1 "$SEGMENT" set "$KEYS" "$VALUE" "$RATE") || die 1 "the writers failed: $line"
  figure p99_us "$line"
}

prepare
need redis-cli awk tail
start_group $GROUP_BASE
PRIMARY=$(replica_of primary redis) BACKUP=$(replica_of backup redis) HTTP=$(replica_of primary http)
PRIMARY=${PRIMARY##*:} BACKUP=${BACKUP##*:} HTTP=${HTTP##*:} LOG=$GROUP_DIR/log/$(replica_of primary name).log
readonly PRIMARY BACKUP HTTP LOG
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
# Its primary's log is waited for, not asked: every process that a question starts takes a processor from the writers.
(
  line_in "$LOG" 'backup.admitted.*"joiner"' 120
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

say "comparing both copies, then killing the primary"
"$CUTOVER" verify --data "$GROUP_DIR" >"$SCRATCH/verify" 2>&1 || die 1 "the copies differ, or could not be compared: $(tail -n 3 "$SCRATCH/verify")"
joiner_answers() { [[ $(redis-cli -p $JOINER_PORT set after kill 2>&1) == OK ]]; }
killed=$(date +%s.%N)
kill -KILL "$PRIMARY_PID"
until_true 30 "the joiner as primary" joiner_answers
printf '| digests of both copies; the primary killed: until its successor, the joiner, answered a write | equal; %s s |\n' \
  "$(awk -v a="$killed" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')"
