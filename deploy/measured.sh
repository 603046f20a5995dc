# Sourced by bench.sh, modes.sh, restart.sh, syscalls.sh and transfer.sh: a group on loopback that is measured, and its end. Not a command by itself.
#
# Reads: CUTOVER (the binary; else target/release/cutover, else PATH), RESPLOAD (the load generator).
# Sets after start_group: GROUP_DIR, and what in_sync_epoch and replica_of tell.
#
# The load generator is any closed-loop one with this command line and this one line of output:
#   RESPLOAD HOST PORT CONNECTIONS PIPELINE SECONDS MODE      MODE: set, setwait (SET, then WAIT 1 0), get
#   ... ops=N ... ops_per_s=N p50_us=N p99_us=N ... errors=N  (other words may stand between)

say() { printf '%s\n' "$*" >&2; }
die() { local code=$1; shift; say "${0##*/}: $*"; exit "$code"; }

# A command substitution that fails ends the script, too.
shopt -s inherit_errexit

STARTED=()
SCRATCH=''

# gone PID...: true when none of them holds anything any more.
gone() {
  local pid tasks
  for pid in "$@"; do
    tasks=(/proc/"$pid"/task/*)
    # A zombie whose other threads are still ending holds its memory and its data directory.
    [[ ! -e /proc/$pid ]] || { grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null && ((${#tasks[@]} <= 1)); } || return 1
  done
}

# Ends what this script started, by pid, and removes its directory.
clean_up() {
  local pid deadline=$((SECONDS + 60))
  # The last one first: a group ends its own processes when its supervisor is asked to.
  for ((i = ${#STARTED[@]} - 1; i >= 0; i--)); do
    pid=${STARTED[i]}
    kill -TERM "$pid" 2>/dev/null || continue
    wait "$pid" 2>/dev/null || true
  done
  # What was disowned cannot be waited for. A replica with a large state takes its time to end, and the next run would
  # meet its ports taken.
  until gone "${STARTED[@]}" || ((SECONDS >= deadline)); do sleep 0.1; done
  [[ -z $SCRATCH ]] || rm -rf "$SCRATCH"
}

prepare() {
  SCRATCH=$(mktemp -d)
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  local here
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  CUTOVER=${CUTOVER:-$here/target/release/cutover}
  [[ -x $CUTOVER ]] || CUTOVER=$(command -v cutover) || die 3 "no binary: cargo build --release, or set CUTOVER"
  [[ -n ${RESPLOAD:-} && -x $RESPLOAD ]] || die 3 "RESPLOAD must name a load generator; see deploy/measured.sh"
}

# until_true SECONDS WHAT COMMAND...: waits for a condition that only the outside can show.
until_true() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    # What was said by now, not when the wait began.
    ((SECONDS < deadline)) || die 1 "waited too long: $what${GROUP_LOG:+; dev said last: $(tail -n 3 "$GROUP_LOG" 2>/dev/null)}"
    sleep 0.1
  done
}

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

status() { "$CUTOVER" status --data "$GROUP_DIR" --json; }

# The epoch, when exactly two replicas are in sync and reachable; fails otherwise.
in_sync_epoch() {
  local json members
  json=$(status 2>/dev/null) || return 1
  members=$(grep -o '"in_sync":true[^}]*"reachable":true' <<<"$json" | wc -l)
  ((members == 2)) || return 1
  [[ $json =~ \"epoch\":([0-9]+) ]] && printf '%s\n' "${BASH_REMATCH[1]}"
}
both_in_sync() { in_sync_epoch >/dev/null; }

# replica_of ROLE FIELD: a field of the replica with this role, such as its Redis address.
replica_of() {
  status | grep -o "{\"name\":\"[^}]*}" | grep "\"role\":\"$1\"" | head -n 1 | grep -o "\"$2\":\"[^\"]*\"" | cut -d '"' -f 4
}

# start_group BASE_PORT [NAME]: a primary, one backup, three arbiters; in DURABILITY (memory unless told otherwise).
start_group() {
  GROUP_DIR=$SCRATCH/${2:-group}
  GROUP_LOG=$GROUP_DIR.log
  port_is_free "$1" || die 3 "port $1 is taken"
  "$CUTOVER" dev --base-port "$1" --data "$GROUP_DIR" --replicas 2 --spares 0 --restart-after never \
    --durability "${DURABILITY:-memory}" \
    </dev/null >"$GROUP_LOG" 2>&1 &
  STARTED+=($!)
  until_true 30 "two replicas in sync" both_in_sync
}

# figure NAME LINE: the number after NAME= in a line of the load generator.
figure() {
  [[ " $2" =~ [[:space:]]$1=([0-9.]+) ]] || die 3 "the load generator says no $1: $2"
  printf '%s\n' "${BASH_REMATCH[1]}"
}

median() { sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

need() {
  local command
  for command in "$@"; do
    command -v "$command" >/dev/null || die 3 "no $command"
  done
}

# line_in FILE PATTERN SECONDS: waits until a line of a log that grows has the pattern, without asking for it.
line_in() {
  timeout "$3" grep -qm 1 -- "$2" < <(exec tail -n +1 -f --pid=$$ "$1") || die 1 "no '$2' in $1 within $3 s: $(tail -n 3 "$1")"
}

# fill PORT: KEYS keys with VALUE bytes each, as MSETs of 100.
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
alone() { ! both_in_sync; }
mb() { awk -v bytes="$1" 'BEGIN { printf "%.0f MB", bytes / 1e6 }'; }
