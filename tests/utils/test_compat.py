"""Private names of other libraries are used by utils/compat.py alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import m2dit_jax

PACKAGE = Path(m2dit_jax.__file__).parent
COMPAT = PACKAGE / "utils" / "compat.py"
# Not marked as private, but not documented for users either, or gone in some versions.
INTERNAL = {
    "global_state",
    "debug_info",
    "checkpoint_steps",
    "get_json_tspec_write",
    "CommitFutureAwaitingContractedSignals",
    "metadata_errors",
}
DOCUMENTED = {"os._exit"}


def private_names(source: str) -> list[str]:
    """What a module imports or reads of other libraries that is not for their users."""
    tree = ast.parse(source)
    libraries, found = set(), []
    for node in ast.walk(tree):
        for module, name, here in _imported(node):
            if module.split(".")[0] in ("m2dit_jax", "configs", "__future__"):
                continue
            libraries.add(here)
            found += [
                f"{module}.{name}" for part in f"{module}.{name}".split(".") if _private(part)
            ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if node.attr in INTERNAL or (isinstance(root, ast.Name) and root.id in libraries):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.keyword) and node.arg in INTERNAL:
            found.append(node.arg)
    return [name for name in found if name not in DOCUMENTED]


def _imported(node: ast.AST) -> Iterator[tuple[str, str, str]]:
    """Module, name ("" for the module itself) and the name that it has here."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, "", alias.asname or alias.name.split(".")[0]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        for alias in node.names:
            yield node.module, alias.name, alias.asname or alias.name


def _private(name: str) -> bool:
    return name in INTERNAL or (name.startswith("_") and not name.startswith("__"))


@pytest.mark.parametrize(
    "source",
    [
        "from jax._src.distributed import global_state",
        "import jax._src.core as core",
        "from jax.experimental.pallas import _private",
        "import jax\njax._src.core",
        "import jax\njax.core._names()",
        "from orbax.checkpoint import utils\nutils.checkpoint_steps(folder)",
        "import av\nav.open('a.mp4', metadata_errors='ignore')",
        "def f(jaxpr): return jaxpr.debug_info",
    ],
)
def test_private_names_are_found(source):
    assert private_names(source)


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos._exit(1)",
        "class A:\n  def f(self): return self._x",
        "from __future__ import annotations",
        "from m2dit_jax.utils.compat import checkpoint_steps\ncheckpoint_steps(folder)",
        "import jax\njax.__version__",
    ],
)
def test_others_are_not(source):
    assert not private_names(source)


def test_they_are_in_one_file():
    elsewhere = {
        str(path.relative_to(PACKAGE)): names
        for path in PACKAGE.rglob("*.py")
        if path != COMPAT and (names := private_names(path.read_text(encoding="utf-8")))
    }
    assert elsewhere == {}
    assert private_names(COMPAT.read_text(encoding="utf-8"))
