"""What every program shares: flags in, one line out for a mistake, no library chatter, no silent CPU.

    from absl import flags
    WORKDIR = cli.define_path("workdir", None, "...", required=True)

    def main() -> None: ...

    if __name__ == "__main__":
        cli.run(main)

Exit codes: 0 done; 2 a mistake of the user's, or a full disk, told in one line on stderr; 130
Ctrl-C and 143 SIGTERM, once training has saved; 134 when another process of the cluster is gone,
told in one line; 141 when nobody reads on. Anything else is a bug, with its traceback, or a signal
that ends a process at once, such as 137.
"""

import contextlib
import ctypes
import logging as python_logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags, logging

from seqarch import peers
from seqarch.errors import Stopped, UserError, is_full_disk, unknown
from seqarch.files import local_path

flags.disclaim_key_flags()  # `define_path` defines flags of the programs that call it

# PCI identities as in jax._src.hardware_utils and scripts/env.sh; Google's network cards share the vendor.
_GOOGLE = "0x1ae0"
_TPUS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def run(main: Callable[..., None], argv: list[str] | None = None, positional: tuple[str, ...] = ()) -> NoReturn:
    """Parses the command line into `flags.FLAGS`, runs `main` with the arguments that `positional` names, and exits.

    Modules that a config names are found where the program is started, too.
    """
    quiet()
    keep_memory()
    sys.path.append(os.getcwd())
    try:
        arguments = parse_flags(sys.argv if argv is None else argv, positional)
        join_cluster()
        check_accelerator()
        with _held_for_abort():
            main(*arguments)
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}; give another path")
    except BrokenPipeError:  # of `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not is_full_disk(error):
            raise
        _fail("the disk is full; free some space and run the same command again")
    sys.exit(0)


@contextlib.contextmanager
def _held_for_abort() -> Iterator[None]:
    """Raises JAX's errors only once XLA had the time to end this process for one that is gone.

    Collectives fail at once where another process is gone, or hang.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError:
        if jax.distributed.is_initialized():
            time.sleep(peers.HEARTBEAT_TIMEOUT_S + 10)
        raise


def _fail(line: str) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


class _Path(flags.ArgumentParser):
    """A path of this machine; shells don't put the user's directory for ~ in the middle of --flag=~/path."""

    def parse(self, argument: str) -> str:
        return str(local_path(argument)) if argument else argument


def define_path(name: str, default: str | None, help: str, **options: Any) -> flags.FlagHolder:
    """A flag that takes a path."""
    return flags.DEFINE(_Path(), name, default, help, serializer=flags.ArgumentSerializer(), **options)


def define_allow_modules() -> flags.FlagHolder:
    """A flag of the programs that read runs: the modules that their configs may have imported."""
    help = "Modules and packages of your own mixers that a run's config may have imported, such as my_package,my_mixers."
    return flags.DEFINE_list("allow_modules", [], help)


def quiet() -> None:
    """Keeps the libraries to what needs attention; stderr is for the user. Orbax, by absl, logs what it raises as well."""
    logging.use_absl_handler()
    logging.set_verbosity(logging.FATAL)
    logging.set_stderrthreshold(logging.FATAL)
    for library in ("jax", "tensorboardX"):
        python_logging.getLogger(library).setLevel(python_logging.ERROR)
    if accelerator() is None:  # where only their compilers are installed (requirements-aot.txt), plugins complain of that
        python_logging.getLogger("jax._src.xla_bridge").setLevel(python_logging.CRITICAL)
    sys.unraisablehook = _unraisablehook
    warnings.filterwarnings("ignore", module=r"(orbax|flax|jax|tensorboardX)\b")


def keep_memory() -> None:
    """Has glibc keep what is freed for what is allocated next; else the system clears every page of it again.

    XLA on CPU allocates a program's temporaries at each call. Train steps of 8 x 256 tokens through two layers of 64 take, on one
    core, 105 ms in place of 140 with Mamba, 84 in place of 112 with attention and 62 in place of 64 with the GRU.
    """
    with contextlib.suppress(OSError, AttributeError):  # of another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never


def parse_flags(argv: list[str], positional: tuple[str, ...] = ()) -> list[str]:
    """The arguments that are no flags, of which there must be as many as names in `positional`.

    absl's parser and config_flags', with every way of failing turned into a UserError."""
    app.define_help_flags()
    try:
        rest = flags.FLAGS(argv)
        for name in flags.FLAGS:
            getattr(flags.FLAGS[name].value, "lock", None)  # a config file that could not be read raises here
    except flags.UnrecognizedFlagError as error:
        raise _unknown_flag(error.flagname, argv) from error
    except (KeyError, AttributeError) as error:
        raise _unknown_field(str(error)) from error
    except (flags.Error, OSError, TypeError) as error:
        raise UserError(_one_line(str(error))) from error
    except UserError:
        raise
    except Exception as error:  # in the config file, which is the user's program
        raise UserError(_one_line(f"the config file fails: {type(error).__name__}: {error}")) from error
    if len(rest) > 1 + len(positional):
        raise UserError(f"unexpected argument {rest[1 + len(positional)]!r}; flags look like --name=value")
    if len(rest) <= len(positional):
        raise UserError(f"{positional[len(rest) - 1]} is missing; give {' '.join(positional)}")
    return rest[1:]


def readable(texts: Iterable[str], read: Callable[[str], Any]) -> list[Any]:
    """What `read` makes of each text of a list flag; a mistake costs a line, and the rest goes on if there is any."""
    found, errors = [], []
    for text in list(texts) or [""]:
        try:
            found.append(read(text))
        except UserError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    for error in errors:
        print(f"left out: {error}", file=sys.stderr)
    return found


def join_cluster() -> None:
    """Initialises jax.distributed where the environment says that this is one process of several; before any backend.

    JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID, or what srun, mpirun and multi-host TPUs set.
    """
    env = os.environ
    if address := env.get("JAX_COORDINATOR_ADDRESS"):
        try:
            count, index = int(env["JAX_NUM_PROCESSES"]), int(env["JAX_PROCESS_ID"])
        except (KeyError, ValueError) as error:
            raise UserError(f"JAX_COORDINATOR_ADDRESS is {address}; set JAX_NUM_PROCESSES and JAX_PROCESS_ID too") from error
        if not (0 <= index < count and ":" in address):
            raise UserError(f"process {index} of {count} at {address}: give HOST:PORT and processes 0 to {count - 1}")
        _initialize(address, count, index)
    elif (
        any(int(env.get(tasks) or 1) > 1 for tasks in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
        or "," in env.get("TPU_WORKER_HOSTNAMES", "")
        or "MEGASCALE_COORDINATOR_ADDRESS" in env
    ):
        _initialize()


def _initialize(*cluster: Any) -> None:
    peers.filter_native_stderr()
    jax.distributed.initialize(*cluster, heartbeat_timeout_seconds=peers.HEARTBEAT_TIMEOUT_S)


def accelerator(root: Path = Path("/")) -> str | None:
    """ "cuda" or "tpu" where the operating system shows such a device, whether or not JAX can use it."""
    if any((root / "dev" / name).exists() for name in ("nvidia0", "nvidiactl")):
        return "cuda"
    devices = (root / "sys/bus/pci/devices").glob("*")
    if any(_read(device / "vendor") == _GOOGLE and _read(device / "device") in _TPUS for device in devices):
        return "tpu"
    return None


def spare_accelerator() -> str | None:
    """Keeps this process to the CPU and leaves an accelerator, which is for one process, to those that it starts.

    Returns JAX_PLATFORMS for them. JAX must not have looked for devices yet.
    """
    platforms = jax.config.jax_platforms
    jax.config.update("jax_platforms", "cpu")
    return platforms


def check_accelerator() -> None:
    """Refuses to run on the CPU of a machine that has an accelerator, unless JAX_PLATFORMS says so."""
    found = None if jax.config.jax_platforms else accelerator()
    if found and jax.default_backend() == "cpu":
        raise UserError(
            f"this machine has a {found.upper()} device but JAX runs on the CPU; "
            f"pip install -r requirements-{found}.txt, or set JAX_PLATFORMS=cpu to mean it"
        )


def _unraisablehook(unraisable: Any) -> None:
    """Leaves out what follows a full disk, which is told: TensorStore's late writes, and TensorBoard's last at the exit."""
    if not (is_full_disk(unraisable.exc_value) or "Event loop is closed" in str(unraisable.exc_value)):
        sys.__unraisablehook__(unraisable)


def _unknown_flag(name: str, argv: list[str]) -> UserError:
    if name.startswith("config."):
        return UserError(f"--{name} overrides a field of --config=FILE, which was not given")
    return unknown("flag", f"--{name}", [f"--{flag.name}" for flag in flags.FLAGS.get_key_flags_for_module(argv[0])])


def _unknown_field(message: str) -> UserError:
    """From config_flags' KeyError or AttributeError: 'optm' Did you mean "optim" instead of "optm"?"""
    hint = re.search(r'Did you mean "(.+?)" instead of "(.+?)"', message)
    if hint is None:
        return UserError(f"the config fails: {_one_line(message)}")
    return UserError(f"unknown config field {hint[2]!r}; did you mean {hint[1]!r}?")


def _one_line(text: str) -> str:
    if "Error whilst parsing config file" in text:  # a TypeError or ValueError in get_config, with its traceback inside
        return "the config file fails: " + text.strip().splitlines()[-1]
    if missing := re.search(r"No such file or directory: (.+)$", text):
        return f"no config file {missing[1]}; they are in configs/, such as configs/lm.py:mamba"
    if "is defined twice" in text:  # of config_flags' overrides, once for each time that the file is named
        return "--config is given twice; give it once"
    if early := re.search(r"Found (--\S+) in argv before a value for --config", text):
        return f"give --config=FILE before {early[1]}, which overrides one of its fields"
    if required := re.search(r"Flag (--\S+) must have a value", text):
        return f"{required[1]}=VALUE is required"
    return re.sub(r"\s*\n\s*", "; ", text.strip())


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
