#!/usr/bin/env bash
# What durability costs: three pairs, one per mode, measured by the same hand in turn: memory, buffered, sync, memory ...
#
#   RESPLOAD=/path/to/respload deploy/modes.sh            about 4 minutes
#
# RESPLOAD  load generator, any closed-loop one with the command line described in deploy/measured.sh
# CUTOVER   the binary [target/release/cutover, else PATH]
# ROUNDS    how often each mode is measured in each shape [9]      SECS  seconds of each run [2]
# SHAPES    connections,pipeline ["1,1 50,1 50,16 256,1"]
#
# Ports on loopback from 7820 on. The data lie where mktemp puts them (TMPDIR): name a directory on a real disk, else
# `sync` costs nothing. Nothing else should run on the machine.
# Exit codes: 0 measured, 1 an error reply, 2 usage, 3 something needed is missing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/measured.sh"

[[ ${1:-} != -h && ${1:-} != --help ]] || { sed -n '2,/^set -/p' "${BASH_SOURCE[0]}" | grep '^#' | cut -c 3-; exit 0; }
(($# == 0)) || die 2 "takes no arguments, only environment variables; see --help"
readonly ROUNDS=${ROUNDS:-9} SECS=${SECS:-2} SHAPES=${SHAPES:-1,1 50,1 50,16 256,1}
readonly MODES=(memory buffered sync)

# run PORT CONNECTIONS PIPELINE: operations per second; dies on any error reply.
run() {
  local line
  line=$("$RESPLOAD" 127.0.0.1 "$1" "$2" "$3" "$SECS" set) || die 1 "the load generator failed on port $1"
  [[ $(figure errors "$line") == 0 ]] || die 1 "error replies on port $1 ($2 connections): $line"
  figure ops_per_s "$line"
}

# measure SHAPE: all its rounds, then one line of the table.
measure() {
  local connections=${1%,*} pipeline=${1#*,} out=$SCRATCH/$1 mode figures round
  for ((round = 1; round <= ROUNDS; round++)); do
    figures=()
    for mode in "${MODES[@]}"; do
      figures+=("$(run "${PORTS[$mode]}" "$connections" "$pipeline")")
    done
    printf '%s %s %s\n' "${figures[@]}" >>"$out"
    say "  $connections,$pipeline round $round/$ROUNDS: ${figures[*]}"
  done
  printf '| %s | %s | %.0f | %.0f | %.0f | **%.2f** | **%.2f** |\n' "$connections" "$pipeline" \
    "$(awk '{ print $1 }' "$out" | median)" "$(awk '{ print $2 }' "$out" | median)" "$(awk '{ print $3 }' "$out" | median)" \
    "$(awk '{ print $2 / $1 }' "$out" | median)" "$(awk '{ print $3 / $1 }' "$out" | median)"
}

prepare
declare -A PORTS
base=7820
for mode in "${MODES[@]}"; do
  DURABILITY=$mode start_group $base "$mode"
  port=$(replica_of primary redis)
  PORTS[$mode]=${port##*:}
  base=$((base + 100))
  "$RESPLOAD" 127.0.0.1 "${PORTS[$mode]}" 50 1 1 set >/dev/null
done
printf '| connections | pipeline | memory, ops/s | buffered | sync | buffered / memory | sync / memory |\n|---|---|---|---|---|---|---|\n'
for shape in $SHAPES; do
  [[ $shape =~ ^[0-9]+,[0-9]+$ ]] || die 2 "SHAPES holds '$shape'; connections,pipeline is wanted"
  measure "$shape"
done
