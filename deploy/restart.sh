#!/usr/bin/env bash
# How fast a replica is back, with its state on disk or in memory, while clients write at a fixed rate.
#
# A pair is filled. Then: its backup is killed and started again (from its own snapshot and journal); it is stopped for
# AWAY seconds and woken, so that it has been removed and missed as much (it is given only the entries it lacks); both
# are killed at once and started again. Told: how long each took, and by what way the replica came back.
#
#   RESPLOAD=/path/to/respload deploy/restart.sh            about 2 minutes with 10 million keys
#   RESPLOAD=... KEYS=1000000 deploy/restart.sh
#
# RESPLOAD    load generator, as for deploy/transfer.sh
# CUTOVER     the binary [target/release/cutover, else PATH]
# KEYS        how many [10000000]      VALUE  bytes of each value [64]
# RATE        writes a second [5000]   AWAY   seconds [10]
# DURABILITY  buffered or sync [buffered]      PORTS  100 ports on loopback from here on are used [7600]
#
# The data lie where mktemp puts them (TMPDIR): name a directory on a real disk. Nothing else should run on the machine.
# Exit codes: 0 measured, 1 something failed on the way, 2 usage, 3 something needed is missing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/measured.sh"

[[ ${1:-} != -h && ${1:-} != --help ]] || { sed -n '2,/^set -/p' "${BASH_SOURCE[0]}" | grep '^#' | cut -c 3-; exit 0; }
(($# == 0)) || die 2 "takes no arguments, only environment variables; see --help"
readonly KEYS=${KEYS:-10000000} VALUE=${VALUE:-64} RATE=${RATE:-5000} AWAY=${AWAY:-10} PORTS=${PORTS:-7600}
readonly DURABILITY=${DURABILITY:-buffered}
[[ $DURABILITY != memory ]] || die 2 "in mode memory nothing is on disk"

port_of() { local address; address=$(replica_of "$1" redis) && printf '%s\n' "${address##*:}"; }
seconds() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.1f", b - a }'; }

# kill_replicas PID...: SIGKILL, after keeping how each was started in COMMAND_<pid>.
kill_replicas() {
  local pid
  for pid in "$@"; do
    mapfile -d '' -t "COMMAND_$pid" <"/proc/$pid/cmdline"
  done
  kill -KILL "$@"
  # Until its memory is torn down a process still holds its data directory.
  until_true 30 "the end of processes $*" gone "$@"
}
# start_again PID: the process that had this pid, by the same command line.
start_again() {
  local -n command=COMMAND_$1
  "${command[@]}" >>"$SCRATCH/again.log" 2>&1 < <(exec sleep infinity) &
  STARTED+=($!)
  # Nobody is told when it is killed.
  disown
}
# load SECONDS: clients write in the background; in LOAD_PID.
load() {
  "$RESPLOAD" 127.0.0.1 "$(port_of primary)" 16 1 "$1" set "$KEYS" "$VALUE" "$RATE" >"$SCRATCH/load" 2>&1 &
  LOAD_PID=$!
}
# Whoever of the two is primary.
written() { redis-cli -p "$1" set restart:probe 1 2>/dev/null | grep -q OK || redis-cli -p "$2" set restart:probe 1 2>/dev/null | grep -q OK; }
# came_back SINCE: how, by the lines of all logs after that many.
came_back() {
  cat "$GROUP_DIR"/log/r*.log "$SCRATCH/again.log" 2>/dev/null | grep -cE "$1" || true
}

prepare
need redis-cli awk tail
: >"$SCRATCH/again.log"
start_group $((PORTS + 10))
primary=$(port_of primary)
say "filling the pair with $KEYS keys"
fill "$primary"
until_true 60 "both in sync after filling" both_in_sync
transfers=$(came_back 'transfer.started')

say "killing the backup, starting it again"
load 60
backup=$(process_of "$(port_of backup)")
kill_replicas "$backup"
until_true 30 "the backup removed" alone
at=$(date +%s.%N)
start_again "$backup"
until_true 120 "the backup back in sync: $(tail -n 3 "$SCRATCH/again.log")" both_in_sync
killed=$(seconds "$at" "$(date +%s.%N)")
say "  in sync after $killed s"

say "stopping it for $AWAY s"
backup=$(process_of "$(port_of backup)")
kill -STOP "$backup"
until_true 30 "the backup removed" alone
sleep "$AWAY"
at=$(date +%s.%N)
kill -CONT "$backup"
until_true 60 "the woken backup back in sync" both_in_sync
woken=$(seconds "$at" "$(date +%s.%N)")
say "  in sync after $woken s"
kill "$LOAD_PID" 2>/dev/null || true
wait "$LOAD_PID" 2>/dev/null || true

say "killing both at once"
ports=("$(port_of primary)" "$(port_of backup)")
both=("$(process_of "$(port_of primary)")" "$(process_of "$(port_of backup)")")
kill_replicas "${both[@]}"
at=$(date +%s.%N)
for pid in "${both[@]}"; do start_again "$pid"; done
until_true 120 "a primary that serves" written "${ports[@]}"
serves=$(seconds "$at" "$(date +%s.%N)")
until_true 120 "both in sync" both_in_sync
whole=$(seconds "$at" "$(date +%s.%N)")

printf '%s; %s CPUs, Linux %s; %s keys of 12 bytes, values of %s bytes, %s; %s writes/s\n\n' \
  "$("$CUTOVER" --version)" "$(nproc)" "$(uname -r)" "$KEYS" "$VALUE" "$DURABILITY" "$RATE"
printf '| | |\n|---|---|\n'
printf '| backup killed: from its start until it is in sync, under load | **%s s** |\n' "$killed"
printf '| backup stopped for %s s: from its waking until it is in sync, under load | **%s s** |\n' "$AWAY" "$woken"
printf '| both killed at once: from their start until writes are answered, until both are in sync | **%s s**, %s s |\n' "$serves" "$whole"
printf '| state transfers in all this (deltas) | %s (%s) |\n' "$(($(came_back 'transfer.started') - transfers))" "$(came_back 'rejoin.delta')"
