# Sourced by the other scripts: `prepare ROOT` sets PYTHON to an interpreter that has what seqarch needs.
#
# It makes ROOT/.venv and installs the requirements that fit the machine; it does so again when they have changed.
# SEQARCH_ENV=active uses the `python3` of the active environment as it is.
# It refuses to go on where JAX cannot use the accelerator of the machine; JAX_PLATFORMS=cpu says that the CPU is meant.

say() { echo "seqarch: $*" >&2; }

die() { say "$*"; exit 1; }

prepare() {
  local root=$1 machine
  machine=$(accelerator)
  if [ "${SEQARCH_ENV:-}" = active ]; then
    PYTHON=$(command -v python3) || die "SEQARCH_ENV=active, but no python3 is active; activate an environment"
  elif [ -z "${SEQARCH_ENV:-}" ]; then
    PYTHON=$root/.venv/bin/python
    install_requirements "$root" "$machine"
  else
    die "SEQARCH_ENV is '$SEQARCH_ENV'; expected 'active', or unset it for $root/.venv"
  fi
  [ -n "${JAX_PLATFORMS:-}" ] || check_backend "$machine"
}

# Prints cuda, tpu or cpu, for the machine whose file system begins at $1.
# seqarch/runtime/tpus.txt has the PCI identities. The vendor alone does not tell: Google's network cards have it too.
accelerator() {
  local top=${1:-} device tpus
  if nvidia-smi >/dev/null 2>&1 || [ -e "$top/dev/nvidia0" ] || [ -e "$top/dev/nvidiactl" ]; then
    echo cuda
    return
  fi
  tpus=$(cat "${BASH_SOURCE[0]%/*}/../seqarch/runtime/tpus.txt")
  tpus="|${tpus//$'\n'/|}|"
  for device in "$top"/sys/bus/pci/devices/*; do
    [ -e "$device/vendor" ] || continue
    case $tpus in
      *"|$(cat "$device/vendor") $(cat "$device/device")|"*) echo tpu; return ;;
    esac
  done
  echo cpu
}

# Prints the first interpreter that is new enough and can make environments.
# Each is tried, since version managers leave commands in the path that fail when they are run.
find_python() {
  local name
  for name in python3 python3.12 python3.11 python3.13 python3.14 python; do
    if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$name"
      return
    fi
  done
  return 1
}

# Brings $1/.venv up to the requirements for machine $2.
# The stamp holds what is installed. It says "installing" meanwhile, so that an interrupted installation starts afresh.
# Of two calls at once the second waits, where flock exists.
install_requirements() {
  local root=$1 file=requirements.txt stamp=$1/.venv/requirements.stamp wanted found base
  [ "$2" = cpu ] || file=requirements-$2.txt
  wanted=$(echo "# $file"; cat "$root/requirements.txt" "$root/$file")
  exec 9<"$root/requirements.txt"
  if command -v flock >/dev/null; then flock 9; fi
  found=$(cat "$stamp" 2>/dev/null || true)
  if [ "$found" = installing ] || ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
    base=$(find_python) || die "no Python >= 3.11 with venv found; install one (Debian, Ubuntu: python3 and python3-venv)"
    say "making $root/.venv with $base ($("$base" --version))"
    "$base" -m venv --clear "$root/.venv" || die "could not make $root/.venv; see above"
    found=
  fi
  if [ "$found" != "$wanted" ]; then
    say "installing $file into $root/.venv (a minute or two the first time)"
    echo installing >"$stamp"
    "$PYTHON" -m pip install --disable-pip-version-check --no-input --progress-bar off -r "$root/$file" |
      while read -r verb rest; do case $verb in Collecting | Installing) say "$verb ${rest:0:80}" ;; esac; done ||
      die "the installation failed; see above, and run the same command again"
    echo "$wanted" >"$stamp"
  fi
  exec 9<&-
}

# Ends the program where JAX does not see the accelerator of machine $1.
check_backend() {
  local backend fix="run with JAX_PLATFORMS=cpu to mean the CPU"
  [ "$1" != cpu ] || return 0
  backend=$("$PYTHON" -c 'import jax; print(jax.default_backend())' 2>/dev/null) || backend=nothing
  case $1:$backend in
    cuda:gpu | tpu:tpu) ;;
    *) die "this machine has a ${1/cuda/CUDA} device, but JAX uses '$backend'; mend requirements-$1.txt or the driver, or $fix" ;;
  esac
}
