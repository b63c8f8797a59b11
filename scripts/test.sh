#!/usr/bin/env bash
# Runs the test suite: bash scripts/test.sh [pytest's arguments; paths are relative to the repository].
# The tests run on the CPU unless JAX_PLATFORMS says otherwise.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
source "$root/scripts/env.sh"
prepare "$root"
say "testing on JAX_PLATFORMS=$JAX_PLATFORMS"
cd "$root"
exec "$PYTHON" -m pytest "$@"
