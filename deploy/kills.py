#!/usr/bin/env python3
"""Kills the primary of a running `cutover dev` group N times in a row under torture, and judges.

    deploy/kills.py --cutover target/release/cutover --data DIR [--kills 20] [--clients 8]

Each kill waits until two replicas are in sync again by themselves. At the end torture reads everything back. Prints the
gaps without an answer that the kills caused (median, worst) and exits 0 only if nothing was lost, duplicated,
reordered or unknown.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time


def status(args):
    done = subprocess.run([args.cutover, "status", "--data", args.data, "--json"], capture_output=True, text=True)
    try:
        return json.loads(done.stdout)
    except ValueError:
        return None


def wait_for_pair(args, not_before_epoch, deadline=60):
    """Waits until two replicas that answer are in sync, in an epoch beyond the given one."""
    until = time.monotonic() + deadline
    last = None
    while time.monotonic() < until:
        last = status(args)
        if last and last["epoch"] > not_before_epoch:
            ready = [r for r in last["replicas"] if r["in_sync"] and r.get("reachable", True)]
            if len(ready) >= 2 and any(r["role"] == "primary" for r in ready):
                return last
        time.sleep(0.05)
    sys.exit(f"no pair in sync within {deadline} s; last seen: {last}")


def pid_of(args, name):
    with open(os.path.join(args.data, "dev.json")) as file:
        return next(p["pid"] for p in json.load(file)["processes"] if p["name"] == name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cutover", default="cutover", help="the binary")
    parser.add_argument("--data", required=True, help="directory of the dev group")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds in sync before the next kill")
    args = parser.parse_args()

    seen = wait_for_pair(args, 0)
    # Torture ends by itself; its length only bounds it. It is asked to end early by SIGINT once the kills are done.
    seconds = args.kills * 12 + 30
    torture = subprocess.Popen(
        [args.cutover, "torture", "--data", args.data, "--clients", str(args.clients), "--duration", f"{seconds}s", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(2)
    for number in range(1, args.kills + 1):
        primary = seen["primary"]
        os.kill(pid_of(args, primary), signal.SIGKILL)
        before = seen["epoch"]
        seen = wait_for_pair(args, before)
        print(f"kill {number:2}: {primary} -> {seen['primary']}, epoch {before} -> {seen['epoch']}", flush=True)
        time.sleep(args.pause)
    torture.send_signal(signal.SIGINT)
    out, _ = torture.communicate(timeout=seconds + 60)
    result = json.loads(out)
    gaps = sorted(result["gaps_ms"], reverse=True)[: args.kills]
    print(f"acked {result['acked']}, unknown {result['unknown']}, lost {result['lost']}, "
          f"duplicated {result['duplicated']}, reordered {result['reordered']}, cut-overs {result['cutovers']}")
    print(f"longest gap without an answer: {result['longest_gap_ms']} ms; gaps of 20 ms or more: {len(result['gaps_ms'])}")
    if gaps:
        print(f"gap without an answer: median {statistics.median(gaps)} ms, worst {max(gaps)} ms over {len(gaps)} gaps")
    bad = result["unknown"] + result["lost"] + result["duplicated"] + result["reordered"]
    sys.exit(0 if torture.returncode == 0 and bad == 0 else 1)


if __name__ == "__main__":
    main()
