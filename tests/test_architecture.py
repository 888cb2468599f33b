"""Imports run one way: no package knows one that stands above it (docs/ARCHITECTURE.md)."""

import ast
import graphlib
import re
from pathlib import Path

import pytest
from train_net_runs import ROOT

PACKAGE = ROOT / "d2_ctxseg"
# From the bottom to the top. A package may import those that stand before it.
LAYERS = [
    "utils",
    "losses",
    "classifiers",
    "checkpoint",
    "data",
    "modeling",
    "evaluation",
    "visualization",
    "engine",
    "deployment",
    "visualization.classifier_views",
    "report",
    "model_zoo",
    "comparison",
    "commands",
]
# Every package may read the version and the config keys, and have everything registered.
ROOT_MODULES = {"config", "__version__", "register"}


def layer_of(module: tuple[str, ...]) -> str:
    """The name in LAYERS of a module below d2_ctxseg."""
    nested = ".".join(module[:2])
    return nested if nested in LAYERS else module[0]


def imports_of(path: Path) -> set[str]:
    """The layers that a file imports with relative imports, its own left out."""
    module = path.relative_to(PACKAGE).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = module[: len(module) - node.level]
            name = node.module.split(".") if node.module else [node.names[0].name]
            found.add(layer_of((*base, *name)))
    return found - {layer_of(module)}


FILES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "embedded" not in path.parts and path.parent != PACKAGE
]


def test_every_package_has_its_place():
    assert {layer_of(path.relative_to(PACKAGE).parts) for path in FILES} == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_package_imports_only_what_stands_below_it(layer):
    below = set(LAYERS[: LAYERS.index(layer)]) | ROOT_MODULES
    upwards = {
        str(path.relative_to(ROOT)): sorted(imports_of(path) - below)
        for path in FILES
        if layer_of(path.relative_to(PACKAGE).parts) == layer and imports_of(path) - below
    }
    assert upwards == {}


def module_graph() -> dict[str, set[str]]:
    """The modules that each module of the package imports, in functions as well."""
    names = {}
    for path in FILES:
        module = path.relative_to(PACKAGE).with_suffix("").parts
        names[module[:-1] if module[-1] == "__init__" else module] = path
    graph = {}
    for module, path in names.items():
        package = path.relative_to(PACKAGE).parent.parts
        imported = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - node.level + 1]
                base += tuple(node.module.split(".")) if node.module else ()
                for alias in node.names:
                    imported.add((*base, alias.name) if (*base, alias.name) in names else base)
        graph[".".join(module)] = {".".join(name) for name in imported & names.keys() - {module}}
    return graph


def test_no_modules_import_each_other_in_a_circle():
    graph = module_graph()
    assert "losses.functional" in graph["losses.pixel_loss"]
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_imports_of_the_package_are_relative():
    """Otherwise the tests above would not see them."""
    statement = re.compile(r"^\s*(from|import) d2_ctxseg\b", re.MULTILINE)
    assert [str(p) for p in FILES if statement.search(p.read_text(encoding="utf-8"))] == []


def test_the_package_has_no_loose_modules():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "config.py"}


def test_the_embedded_runtime_does_not_import_the_package():
    embedded = PACKAGE / "embedded"
    statement = re.compile(r"^\s*(from|import) d2_ctxseg", re.MULTILINE)
    assert [str(p) for p in embedded.rglob("*.py") if statement.search(p.read_text())] == []


def diagram() -> str:
    """The imports as a Mermaid graph, without arrows that follow from others."""
    arrows = {layer: set() for layer in LAYERS}
    for path in FILES:
        arrows[layer_of(path.relative_to(PACKAGE).parts)] |= imports_of(path) - ROOT_MODULES
    below = {}
    for layer in LAYERS:
        below[layer] = arrows[layer].union(*(below[other] for other in arrows[layer]))
    lines = [
        f"  {layer} --> {other}"
        for layer in reversed(LAYERS)
        for other in sorted(arrows[layer])
        if not any(other in below[between] for between in arrows[layer])
    ]
    return "\n".join(["```mermaid", "graph TD", *lines, "```"])


def test_the_diagram_in_the_docs_is_of_these_imports():
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert diagram() in page, f"docs/ARCHITECTURE.md should have\n{diagram()}"
