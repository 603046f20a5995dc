# Sourced by bench.sh, modes.sh, syscalls.sh and transfer.sh: a group on loopback that is measured, and its end. Not a command by itself.
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

# Ends what this script started, by pid, and removes its directory.
clean_up() {
  local pid
  # The last one first: a group ends its own processes when its supervisor is asked to.
  for ((i = ${#STARTED[@]} - 1; i >= 0; i--)); do
    pid=${STARTED[i]}
    kill -TERM "$pid" 2>/dev/null || continue
    wait "$pid" 2>/dev/null || true
  done
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
    ((SECONDS < deadline)) || die 1 "waited too long: $what"
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
  local log=$GROUP_DIR.log
  port_is_free "$1" || die 3 "port $1 is taken"
  "$CUTOVER" dev --base-port "$1" --data "$GROUP_DIR" --replicas 2 --spares 0 --restart-after never \
    --durability "${DURABILITY:-memory}" \
    </dev/null >"$log" 2>&1 &
  STARTED+=($!)
  until_true 30 "two replicas in sync; see what dev said: $(tail -n 3 "$log" 2>/dev/null)" both_in_sync
}

# figure NAME LINE: the number after NAME= in a line of the load generator.
figure() {
  [[ " $2" =~ [[:space:]]$1=([0-9.]+) ]] || die 3 "the load generator says no $1: $2"
  printf '%s\n' "${BASH_REMATCH[1]}"
}

median() { sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
