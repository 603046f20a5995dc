#!/usr/bin/env bash
# Breaks a group that `cutover dev` runs, one fault after the other, each under `cutover torture`, and says what came
# of it. A fault passes when torture found nothing lost, duplicated or reordered and could check everything. Those that
# leave a pair and its arbiters able to answer must besides leave no operation unknown, and one arbiter less must
# hardly be felt.
#
#   cutover dev --data ./dev --chaos &
#   deploy/drill.sh ./dev
#
# Needs bash, python3 (to read JSON) and the `cutover` binary: in CUTOVER, else next to target/, else in PATH.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: deploy/drill.sh [options] DIR

  DIR               the directory of a group that `cutover dev` runs (it holds dev.json)
  --duration TIME   load around each fault, in seconds [default: 15]
  --only NAME       this fault only; may be given several times
  --list            the names of the faults, in order

Exit codes: 0 every fault passed, 1 one did not, 2 usage, 3 something needed is missing, 4 the group is not healthy.
TEXT
}

readonly FAULTS=(
  none kill_primary kill_primary_twice stop_primary kill_backup stop_backup kill_arbiter kill_arbiters kill_arbiters_backup cut_pair
)
declare -Ar STORIES=(
  [none]="no fault: the load and the forced cut-over alone"
  [kill_primary]="SIGKILL the primary; it comes back and joins"
  [kill_primary_twice]="SIGKILL the primary, and the next one once two are in sync again"
  [stop_primary]="SIGSTOP the primary for 5 s; it wakes deposed"
  [kill_backup]="SIGKILL the backup"
  [stop_backup]="SIGSTOP the backup for 5 s"
  [kill_arbiter]="SIGKILL one arbiter"
  [kill_arbiters]="SIGKILL every arbiter"
  [kill_arbiters_backup]="SIGKILL every arbiter, then the backup: nobody may answer alone"
  [cut_pair]="cut the link of the pair for 5 s (needs dev --chaos)"
)
# How long a group may take to be whole again, in seconds.
readonly HEALTHY_WITHIN=60
# After these every operation must have got its answer.
readonly KNOWN_AFTER=(none kill_primary kill_backup kill_arbiter)
# The longest time without an answer that the loss of one arbiter may cause, in milliseconds.
readonly ARBITER_GAP_MS=1000
# What torture may take beyond its load: the final cut-over, reading back, digests; in seconds.
readonly AFTER_LOAD=240

say() { printf '%s\n' "$*" >&2; }
die() { local code=$1; shift; say "drill: $*"; exit "$code"; }

DIR='' DURATION=15 ONLY=()
while (($#)); do
  case $1 in
    --duration) DURATION=${2:?--duration needs seconds}; shift 2 ;;
    --only) ONLY+=("${2:?--only needs a name}"); shift 2 ;;
    --list) for fault in "${FAULTS[@]}"; do printf '%-22s %s\n' "$fault" "${STORIES[$fault]}"; done; exit 0 ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) DIR=$1; shift ;;
  esac
done
DURATION=${DURATION%s}
[[ $DURATION =~ ^[0-9]+$ && $DURATION -ge 10 ]] || die 2 "--duration is a number of seconds, 10 or more"
[[ -n $DIR ]] || { usage >&2; exit 2; }
for fault in "${ONLY[@]}"; do [[ -v STORIES[$fault] ]] || die 2 "no fault '$fault'; see --list"; done
((${#ONLY[@]})) || ONLY=("${FAULTS[@]}")

command -v python3 >/dev/null || die 3 "python3 is not there; it reads the JSON of cutover and dev.json"
[[ -r $DIR/dev.json ]] || die 3 "$DIR/dev.json is not there; start a group with: cutover dev --data $DIR --chaos"
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
for candidate in "${CUTOVER:-}" "$HERE/target/release/cutover" "$HERE/target/debug/cutover" "$(command -v cutover || true)"; do
  [[ -n $candidate && -x $candidate ]] && { CUTOVER=$candidate; break; }
done
[[ -x ${CUTOVER:-} ]] || die 3 "no cutover binary: build it (cargo build --release) or name it in CUTOVER"

WORK=$(mktemp -d)
STOPPED=() TORTURE=''
clean_up() {
  # Whatever was stopped must run again, whatever happened here.
  for pid in "${STOPPED[@]}"; do kill -CONT "$pid" 2>/dev/null || true; done
  [[ -n $TORTURE ]] && kill "$TORTURE" 2>/dev/null || true
  rm -rf "$WORK"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# Evaluates a Python expression over the JSON on standard input, called `it`.
json() { python3 -c 'import json, sys
it = json.load(sys.stdin)
value = eval(sys.argv[1])
print("" if value is None else str(value).lower() if isinstance(value, bool) else value)' "$1"; }

now_ms() { date +%s%3N; }
status() { timeout 15 "$CUTOVER" status --data "$DIR" --json; }
# Process ids of dev.json: by name (nothing for nobody), or all of a kind.
pid_of() { json "next((p['pid'] for p in it['processes'] if p['name'] == '$1'), '')" <"$DIR/dev.json"; }
arbiter_pids() { json "' '.join(str(p['pid']) for p in it['processes'] if p['kind'] == 'arbiter')" <"$DIR/dev.json"; }
all_running() { [[ $(json "all(p['running'] for p in it['processes'])" <"$DIR/dev.json") == true ]]; }
has_chaos() { [[ -n $(json "it.get('chaos')" <"$DIR/dev.json") ]]; }
primary() { status | json "it['primary']"; }
backup() { status | json "next((r['name'] for r in it['replicas'] if r['in_sync'] and r['name'] != it['primary']), '')"; }
in_sync() { status 2>/dev/null | json "sum(r['in_sync'] and r['reachable'] for r in it['replicas'])" 2>/dev/null || echo 0; }

# Every process runs and two replicas are in sync, within the time given.
healthy() {
  local deadline=$(($(date +%s) + ${1:-$HEALTHY_WITHIN}))
  until all_running && (($(in_sync) >= 2)); do
    (($(date +%s) < deadline)) || return 1
    sleep 0.2
  done
}

stop_for() {
  local pid=$1 seconds=$2
  STOPPED+=("$pid")
  kill -STOP "$pid"
  sleep "$seconds"
  kill -CONT "$pid" 2>/dev/null || true
}

# Injects a fault. Sets AT, the moment of it in milliseconds: everything is looked up before.
inject() {
  local first second first_pid second_pid arbiters
  first=$(primary) second=$(backup)
  first_pid=$(pid_of "$first") second_pid=$(pid_of "$second")
  read -ra arbiters <<<"$(arbiter_pids)"
  AT=$(now_ms)
  case $1 in
    none) ;;
    kill_primary) kill -KILL "$first_pid" ;;
    kill_primary_twice)
      kill -KILL "$first_pid"
      if healthy "$DURATION"; then
        kill -KILL "$(pid_of "$(primary)")"
      else
        say "  the group was not whole again within $DURATION s; the second kill is left out"
      fi
      ;;
    stop_primary) stop_for "$first_pid" 5 ;;
    kill_backup) kill -KILL "$second_pid" ;;
    stop_backup) stop_for "$second_pid" 5 ;;
    kill_arbiter) kill -KILL "${arbiters[0]}" ;;
    kill_arbiters) kill -KILL "${arbiters[@]}" ;;
    kill_arbiters_backup) kill -KILL "${arbiters[@]}" "$second_pid" ;;
    cut_pair) "$CUTOVER" chaos --data "$DIR" cut "$first" "$second" --for 5s >/dev/null ;;
  esac
}

# Milliseconds from the fault to the record of a new primary, by the arbiters' history; '-' when there was none.
cutover_ms() {
  timeout 15 "$CUTOVER" history --data "$DIR" --json 2>/dev/null | json "next((str(b['at_ms'] - $1)
    for a, b in zip(it, it[1:]) if b['at_ms'] >= $1 and a['primary'] != b['primary']), '-')" 2>/dev/null || echo '?'
}

# Waits until torture has been answered something: the fault must meet a load.
await_load() {
  local before after deadline=$(($(date +%s) + 15))
  before=$(status | json "it['replicas'][0]['index'] or 0")
  while (($(date +%s) < deadline)); do
    after=$(status | json "it['replicas'][0]['index'] or 0")
    ((after > before + 100)) && return 0
    kill -0 "$TORTURE" 2>/dev/null || return 1
    sleep 0.2
  done
  return 1
}

# What a fault must not have come to though torture is content, of its longest gap and its unknown operations.
beyond() {
  local fault=$1 gap=$2 unknown=$3
  if [[ " ${KNOWN_AFTER[*]} " == *" $fault "* ]] && ! [[ $unknown == 0 ]]; then
    printf '%s operations unknown, of which there must be none' "$unknown"
  elif [[ $fault == kill_arbiter ]] && ! { [[ $gap =~ ^[0-9]+$ ]] && ((gap <= ARBITER_GAP_MS)); }; then
    printf '%s ms without an answer, more than %s' "$gap" "$ARBITER_GAP_MS"
  fi
}

ROWS=() FAILED=0
drill() {
  local fault=$1 duration=$DURATION took='-' code=0 report=$WORK/$1.json verdict found='?|?|?|?' gap unknown excess
  if [[ $fault == cut_pair ]] && ! has_chaos; then
    ROWS+=("$fault|-|-|-|-|-|left out: dev runs without --chaos")
    return
  fi
  healthy || die 4 "the group is not whole (every process running, two replicas in sync) after $HEALTHY_WITHIN s: see $CUTOVER status --data $DIR"
  say "$fault: ${STORIES[$fault]}"
  [[ $fault == kill_primary_twice ]] && duration=$((duration * 2))
  timeout $((duration + AFTER_LOAD)) "$CUTOVER" torture --data "$DIR" --duration "${duration}s" --json >"$report" 2>"$report.err" &
  TORTURE=$!
  if await_load; then
    inject "$fault"
  else
    say "  the load did not begin: $(tail -n 1 "$report.err")"
    AT=''
  fi
  wait "$TORTURE" || code=$?
  TORTURE='' STOPPED=()
  [[ -n $AT && $fault != none ]] && took=$(cutover_of_fault "$fault")
  [[ -s $report ]] && found=$(json "'|'.join(str(it[k]) for k in ('longest_gap_ms', 'unknown', 'lost', 'duplicated'))" <"$report")
  IFS='|' read -r gap unknown _ <<<"$found"
  excess=$(beyond "$fault" "$gap" "$unknown")
  if ((code != 0)) || [[ -z $AT ]]; then
    verdict="FAILED ($code): $(tail -n 1 "$report.err")"
    FAILED=1
  elif [[ -n $excess ]]; then
    verdict="FAILED: $excess"
    FAILED=1
  else
    verdict=ok
  fi
  ROWS+=("$fault|$took|$found|$verdict")
  say "  $verdict"
}

# A cut-over that the fault did not cause (the one forced at the end) is none of the fault's.
cutover_of_fault() {
  local took
  took=$(cutover_ms "$AT")
  if [[ $took =~ ^[0-9]+$ ]] && ((took > 8000)); then took='-'; fi
  printf '%s' "$took"
}

for fault in "${ONLY[@]}"; do drill "$fault"; done

printf '\n%-22s %12s %16s %8s %6s %11s  %s\n' FAULT 'CUT-OVER MS' 'LONGEST GAP MS' UNKNOWN LOST DUPLICATED VERDICT
for row in "${ROWS[@]}"; do
  IFS='|' read -r fault took gap unknown lost duplicated verdict <<<"$row"
  printf '%-22s %12s %16s %8s %6s %11s  %s\n' "$fault" "$took" "$gap" "$unknown" "$lost" "$duplicated" "$verdict"
done
exit "$FAILED"
