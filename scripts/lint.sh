#!/usr/bin/env bash
# Checks format and lint with ruff, by the settings in pyproject.toml: bash scripts/lint.sh
# `.venv/bin/ruff format` and `.venv/bin/ruff check --fix` correct most of what it finds.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
source "$root/scripts/env.sh"
prepare "$root"
cd "$root"
if ! "$PYTHON" -m ruff --version >/dev/null 2>&1; then
  say "lint is skipped: $PYTHON has no ruff; install it by 'pip install -e .[dev]'"
  exit 0
fi
"$PYTHON" -m ruff format --quiet --check || die "files are not formatted; run '$PYTHON -m ruff format'"
exec "$PYTHON" -m ruff check --quiet
