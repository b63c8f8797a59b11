#!/usr/bin/env bash
# Runs the test suite: bash scripts/test.sh [arguments of pytest, with paths from the root of the repository]
# The tests run on the CPU unless JAX_PLATFORMS names something else.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
source "$root/scripts/env.sh"
prepare "$root"
say "testing on JAX_PLATFORMS=$JAX_PLATFORMS"
cd "$root"
exec "$PYTHON" -m pytest "$@"
