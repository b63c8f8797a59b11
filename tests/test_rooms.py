"""Imports go one way: a room of seqarch imports itself and the rooms before it in ROOMS."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

# From the bottom to the top. A module belongs to the room with the longest name that its own begins
# with; "evals.evaluator" is the registry of evaluators, by which a config is validated, and
# "runtime.cli" is what programs alone import.
ROOMS = """
    shapes types errors files provenance records devices stats runtime
    ops layers mixers cross_attention source_summary patterns tuning
    evals.evaluator tasks config flops model_flops block_stack token_rows model encoder_decoder
    sampling prompts decoding training generate
    laws costs pretrained evals report runs compare sweep
    runtime.help runtime.cli
""".split()

# Programs and what they share: no room imports them.
OUTSIDE = ("benchmarks", "configs", "scripts", "studies", "tests", "train", "eval")

# Where these libraries may be imported.
LIBRARIES = {
    "ml_collections": ("config", "runtime.cli", "runtime.command_line", "runtime.overrides"),
    "orbax": ("training.checkpoint", "training.restore"),
    "tensorboardX": ("runtime.trackers", "training.logging"),
    "matplotlib": ("report",),
}

# Files that may change sys.path, by which programs find the repository and mixers of the user's.
PATH_EDITORS = {"scripts/_root.py", "seqarch/runtime/cli.py", "seqarch/mixers/__init__.py"}


def below(module: str, room: str) -> bool:
    """Returns whether a module is `room` or lies in it; both without "seqarch."."""
    return module == room or module.startswith(f"{room}.")


def room_of(module: str) -> str:
    """Returns the room of a module; "" is that of seqarch itself, which is above all."""
    found = [room for room in ROOMS if below(module, room)]
    assert found or not module, f"seqarch.{module} is in no room; add its room to ROOMS"
    return max(found, key=len, default="")


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields line and dotted name of what a source imports when it runs, in functions too."""
    unread = [tree]
    while unread:
        node = unread.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: write `from seqarch.room import name`"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            unread.extend(ast.iter_child_nodes(node))


def broken_rule(module: str, target: str) -> str | None:
    """Returns the rule that `module` (without "seqarch.") breaks by importing `target`."""
    package, _, rest = target.partition(".")
    if package in OUTSIDE:
        return f"no room imports {package}"
    if package in LIBRARIES and not any(below(module, room) for room in LIBRARIES[package]):
        return f"{package} is imported in {' and '.join(LIBRARIES[package])} only"
    here, there = room_of(module), room_of(rest) if package == "seqarch" else None
    if here and there is not None and (not there or ROOMS.index(there) > ROOMS.index(here)):
        return f"{here} is below {there or 'seqarch itself'}"
    return None


def violations(root: Path) -> list[str]:
    """Returns a line for each import under root/seqarch that breaks a rule."""
    found = []
    for path in sorted((root / "seqarch").rglob("*.py")):
        relative = path.relative_to(root)
        module = ".".join(relative.with_suffix("").parts[1:]).removesuffix("__init__").strip(".")
        for line, target in sorted(imported(ast.parse(path.read_text()))):
            if rule := broken_rule(module, target):
                found.append(f"{relative}:{line} imports {target}: {rule}")
    return found


def test_no_room_imports_one_above_it():
    assert not (found := violations(ROOT)), "\n".join(found)


def test_a_violation_names_file_line_and_rule(tmp_path):
    file = tmp_path / "seqarch/ops/scan.py"
    file.parent.mkdir(parents=True)
    file.write_text("import jax\n\ndef f():\n    from seqarch.model import LanguageModel\n")
    assert violations(tmp_path) == [
        "seqarch/ops/scan.py:4 imports seqarch.model.LanguageModel: ops is below model"
    ]
    file.write_text("import configs.lm\nfrom matplotlib import pyplot\nimport seqarch.types\n")
    assert violations(tmp_path) == [
        "seqarch/ops/scan.py:1 imports configs.lm: no room imports configs",
        "seqarch/ops/scan.py:2 imports matplotlib.pyplot: matplotlib is imported in report only",
    ]


def test_imports_for_annotations_alone_are_free(tmp_path):
    file = tmp_path / "seqarch/tasks/base.py"
    file.parent.mkdir(parents=True)
    file.write_text("if TYPE_CHECKING:\n    from seqarch.config import Config\n")
    assert violations(tmp_path) == []


def test_the_path_of_modules_is_changed_in_few_places():
    programs = [*ROOT.glob("*.py")]
    for room in ("benchmarks", "configs", "scripts", "seqarch", "studies"):
        programs += (ROOT / room).rglob("*.py")
    editors = {str(path.relative_to(ROOT)) for path in programs if "sys.path." in path.read_text()}
    assert editors <= PATH_EDITORS


def test_no_two_public_classes_share_a_name():
    names = Counter()
    for file in (ROOT / "seqarch").rglob("*.py"):
        names.update(
            node.name
            for node in ast.parse(file.read_text("utf-8")).body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        )
    assert [name for name, count in names.items() if count > 1] == []
