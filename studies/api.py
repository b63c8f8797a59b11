"""docs/api.md: the public names of seqarch, with the first paragraphs of their docstrings."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

HEAD = """# Reference

The public names of each module, with the first paragraphs of their docstrings.
`python scripts/docs.py` makes this page from the source. Names without a docstring are left out.
"""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def api_page(root: Path) -> str:
    """Returns docs/api.md of the source in root/seqarch, as markdown."""
    modules = _modules(root / "seqarch")
    return HEAD + "".join(line for path in modules for line in _module(root, path))


def _modules(room: Path) -> Iterator[Path]:
    """A package's own file, its modules and then its packages, each in alphabetical order."""
    yield room / "__init__.py"
    yield from sorted(path for path in room.glob("*.py") if path.stem != "__init__")
    for path in sorted(room.glob("*/__init__.py")):
        yield from _modules(path.parent)


def _module(root: Path, path: Path) -> Iterator[str]:
    """The lines of one module; none for a module without public names."""
    tree = ast.parse(path.read_text("utf-8"))
    name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    entries, exports = list(_entries(tree, "")), _exports(tree)
    if entries or exports:
        yield f"\n## {name}\n\n{first_paragraph(tree)}\n\n"
        yield from exports
        yield from entries


def _exports(tree: ast.Module) -> list[str]:
    """A list item with the names in `__all__`, if there are any."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = ", ".join(f"`{name}`" for name in ast.literal_eval(node.value))
            return [f"- exports {names}\n"]
    return []


def _entries(tree: ast.Module | ast.ClassDef, indent: str) -> Iterator[str]:
    """A list item for each public definition, and for each public method of a class below it."""
    for node in tree.body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node):
            yield f"{indent}- `{signature(node)}`: {first_paragraph(node)}\n"
            if isinstance(node, ast.ClassDef):
                yield from _entries(node, indent + "  ")


def signature(node: Definition) -> str:
    """Returns a function's name with its arguments and defaults; a class's with its bases."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    if any("property" in ast.unparse(each) for each in node.decorator_list):
        return node.name
    return f"{node.name}({_bare(node.args)})"


def _bare(arguments: ast.arguments) -> str:
    """Arguments without their annotations, and without self and cls."""
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    for argument in (*every, arguments.vararg, arguments.kwarg):
        if argument is not None:
            argument.annotation = None
    return re.sub(r"^(self|cls)(, |$)", "", ast.unparse(arguments))


def first_paragraph(node: Definition | ast.Module) -> str:
    """Returns the first paragraph of a docstring, in one line."""
    docstring = inspect.cleandoc(ast.get_docstring(node) or "")
    return " ".join(docstring.split("\n\n")[0].split())
