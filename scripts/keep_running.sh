#!/usr/bin/env bash
# Starts a command again until it is done, for machines that are preempted:
#   bash scripts/keep_running.sh python train.py --config=configs/lm.py:mamba --workdir=RUN
# Exit codes 0 (done), 2 (a mistake, or a full disk), 130 (Ctrl-C) and 141 (nobody reads the output) end it.
# After any other it waits, from 1 s to 5 min, doubling each time, and starts the command again.
# It gives up after 10 starts in a row (KEEP_RUNNING_LIMIT) that lasted less than 10 min each.
# It passes SIGTERM on, and then ends with the command's exit code.
set -uo pipefail
if [ $# = 0 ]; then
  echo "error: give the command to keep running: bash scripts/keep_running.sh python train.py ..." >&2
  exit 2
fi

# Runs "$@" to its end, whatever signals arrive meanwhile, and returns its exit code.
attend() {
  (trap - INT TERM; exec "$@") &
  child=$!
  while :; do
    signalled=''
    wait "$child"
    local code=$?
    [ -n "$signalled" ] || return "$code"
  done
}

stopping=''
trap 'signalled=1; stopping=1; kill -TERM "$child" 2>/dev/null' TERM
trap 'signalled=1; stopping=1' INT # a terminal sends Ctrl-C to the command as well

failures=0
while :; do
  began=$SECONDS
  attend "$@"
  code=$?
  case $code in 0 | 2 | 130 | 141) exit "$code" ;; esac
  [ -z "$stopping" ] || exit "$code"
  [ $((SECONDS - began)) -lt 600 ] || failures=0
  failures=$((failures + 1))
  if [ "$failures" -ge "${KEEP_RUNNING_LIMIT:-10}" ]; then
    echo "error: exit code $code; $failures starts in a row ended within 10 minutes, giving up" >&2
    exit "$code"
  fi
  pause=$((failures < 9 ? 1 << (failures - 1) : 300))
  echo "exit code $code; starting again in $pause s" >&2
  attend sleep "$pause"
  [ -z "$stopping" ] || exit "$code"
done
