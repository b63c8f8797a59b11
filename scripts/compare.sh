#!/usr/bin/env bash
# Trains and compares the members of configs/compare.py: bash scripts/compare.sh [arguments of scripts/compare.py].
# With --config=configs/compare.py:full, or another comparison's config, those of that one.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/env.sh"
prepare "$root"
[[ " $* " =~ " --config"[=\ ] ]] || set -- --config="$root/configs/compare.py" "$@"
exec "$PYTHON" "$root/scripts/compare.py" "$@"
