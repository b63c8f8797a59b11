#!/usr/bin/env bash
# Trains and compares the members of a config: bash scripts/compare.sh [arguments of scripts/compare.py]
# The config is configs/compare.py, or the one of --config.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/env.sh"
prepare "$root"
[[ " $* " =~ " --config"[=\ ] ]] || set -- --config="$root/configs/compare.py" "$@"
exec "$PYTHON" "$root/scripts/compare.py" "$@"
