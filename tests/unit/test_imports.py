"""Who imports whom: rooms go one way, and each library's private names have one door."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import plain_gevent_h2

PACKAGE = Path(plain_gevent_h2.__file__).parent
NAME = "plain_gevent_h2"

#: The rooms and the files beside them, from the lowest up. Each imports itself and those before it.
ORDER = (
    ("patching",),
    ("config", "default_settings"),
    ("net",),
    ("limits",),
    ("app",),
    ("stream",),
    ("http2",),
    ("http1", "load"),
    ("patches",),
    ("process",),
    ("worker",),
    ("preflight", "cli"),
)
LEVELS = {room: level for level, rooms in enumerate(ORDER) for room in rooms}

#: The one file that imports Plain's private names.
PLAIN_INTERNALS = "app.plain_internals"

#: What Plain documents for apps. All else is private, and so is each name with an underscore.
PLAIN_PUBLIC = {
    "plain.exceptions",
    "plain.http",
    "plain.logs",
    "plain.preflight",
    "plain.runtime",
    "plain.urls",
    "plain.views",
}


def modules() -> dict[str, ast.Module]:
    """The package's modules by their names within it."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imports(module: str) -> Iterator[str]:
    """The full name of each thing that `module` imports, wherever in it: also for types alone."""
    is_package = (PACKAGE / module.replace(".", "/")).is_dir()
    package = [NAME, *module.split(".")] if is_package else [NAME, *module.split(".")[:-1]]
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def own_imports(module: str) -> set[str]:
    """The modules of this package that `module` imports."""
    found = set()
    for name in imports(module):
        inside = name.removeprefix(f"{NAME}.")
        if inside == name:
            continue
        target = inside if inside in MODULES else inside.rpartition(".")[0]
        if target:
            found.add(target)
    return found - {module}


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_has_a_place() -> None:
    assert {room(module) for module in MODULES if module != "__init__"} == set(LEVELS)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "__init__"])
def test_imports_go_down(module: str) -> None:
    back = {
        target
        for target in own_imports(module)
        if room(target) != room(module) and LEVELS[room(target)] >= LEVELS[room(module)]
    }
    assert not back, f"{module} imports {sorted(back)}, which stand above or beside it"


def test_there_is_no_circle() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for target in own_imports(module):
                visit(target, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_the_first_module_of_a_worker_imports_nothing() -> None:
    assert not [
        ast.unparse(node)
        for node in MODULES["patches"].body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]


@pytest.mark.parametrize("module", sorted(set(MODULES) - {PLAIN_INTERNALS}))
def test_only_one_file_imports_private_names_of_plain(module: str) -> None:
    private = {
        name
        for name in imports(module)
        if name.startswith("plain.") and (is_private(name) or name.rpartition(".")[2][:1] == "_")
    }
    assert not private, f"{module} imports {sorted(private)}: import them in {PLAIN_INTERNALS}"


def is_private(name: str) -> bool:
    """Whether `name`, a module or something in one, is none that Plain documents."""
    if name in PLAIN_PUBLIC:
        return False
    parent, _, last = name.rpartition(".")
    if parent not in PLAIN_PUBLIC:
        return True
    return isinstance(getattr(importlib.import_module(parent), last, None), ModuleType)


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) != "http2"])
def test_only_http2_imports_the_libraries_of_http2(module: str) -> None:
    libraries = {name.partition(".")[0] for name in imports(module)}
    assert not libraries & {"h2", "hpack", "hyperframe"}
