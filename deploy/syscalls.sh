#!/usr/bin/env bash
# System calls per operation of one replica of a pair, under load: the count that a slower disk, network or kernel
# multiplies. strace slows everything down, so the rate that it shows means nothing; the calls per operation do (with
# fewer operations per turn they are an upper bound).
#
#   RESPLOAD=/path/to/respload deploy/syscalls.sh
#   RESPLOAD=... ROLE=backup MODE=set CONNECTIONS=256 deploy/syscalls.sh
#
# RESPLOAD  load generator; see deploy/measured.sh     CUTOVER  the binary [target/release/cutover, else PATH]
# ROLE      whose calls: primary or backup [primary]   MODE     set or get [set]
# CONNECTIONS [50]   PIPELINE [1]   SECS [5]
#
# Ports on loopback: from 7840 on. Needs strace, and the right to trace one's own processes.
# Exit codes: 0 counted, 1 an error on the way, 2 usage, 3 something needed is missing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/measured.sh"

[[ ${1:-} != -h && ${1:-} != --help ]] || { sed -n '2,/^set -/p' "${BASH_SOURCE[0]}" | grep '^#' | cut -c 3-; exit 0; }
(($# == 0)) || die 2 "takes no arguments, only environment variables; see --help"
readonly ROLE=${ROLE:-primary} MODE=${MODE:-set} CONNECTIONS=${CONNECTIONS:-50} PIPELINE=${PIPELINE:-1} SECS=${SECS:-5}
[[ $ROLE == primary || $ROLE == backup ]] || die 2 "ROLE is primary or backup"

prepare
command -v strace >/dev/null || die 3 "no strace: install it"
start_group 7840
PRIMARY=$(replica_of primary redis)
NAME=$(replica_of "$ROLE" name)
PID=$(tr -d ' \n' <"$GROUP_DIR/dev.json" | grep -o "{\"name\":\"$NAME\"[^}]*" | grep -o '"pid":[0-9]*' | cut -d : -f 2)
readonly PRIMARY NAME PID

attached() { grep -q attached "$SCRATCH/strace.err"; }
strace -c -f -p "$PID" -o "$SCRATCH/counts" 2>"$SCRATCH/strace.err" &
STRACE=$!
STARTED+=("$STRACE")
until_true 10 "strace on $PID; may this user trace it? $(cat "$SCRATCH/strace.err" 2>/dev/null)" attached
EPOCH=$(in_sync_epoch) || die 1 "the pair is not in sync"
LINE=$("$RESPLOAD" 127.0.0.1 "${PRIMARY##*:}" "$CONNECTIONS" "$PIPELINE" "$SECS" "$MODE") || die 1 "the load failed"
[[ $(in_sync_epoch) == "$EPOCH" ]] || die 1 "the pair changed on the way; trace for longer or with fewer connections"
kill -INT "$STRACE"
wait "$STRACE" 2>/dev/null || true
OPS=$(figure ops "$LINE")
[[ $(figure errors "$LINE") == 0 ]] || die 1 "error replies: $LINE"

printf '%s (%s) under %s connections, pipeline %s, %s: %s operations in %s s while traced\n\n' \
  "$NAME" "$ROLE" "$CONNECTIONS" "$PIPELINE" "$MODE" "$OPS" "$SECS"
# Columns of strace -c: % time, seconds, usecs/call, calls, [errors,] syscall.
awk -v ops="$OPS" '
  $1 ~ /^[0-9.]+$/ && $NF != "total" { calls[$NF] = $4; sum += $4 }
  END {
    printf "%-18s %12s %10s\n", "CALL", "CALLS", "PER OP"
    for (name in calls) printf "%-18s %12d %10.3f\n", name, calls[name], calls[name] / ops | "sort -k 2 -n -r | head -n 12"
    close("sort -k 2 -n -r | head -n 12")
    printf "%-18s %12d %10.3f\n", "total", sum, sum / ops
  }' "$SCRATCH/counts"
