#!/usr/bin/env bash
# Trains and compares the members of configs/compare.py: bash scripts/compare.sh [arguments of scripts/compare.py].
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/env.sh"
prepare "$root"
exec "$PYTHON" "$root/scripts/compare.py" --config="$root/configs/compare.py" "$@"
