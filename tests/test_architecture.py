"""The fences: which module may import what, who may read the environment, and what every service must have."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from anime_common import contracts
from anime_common.messages import REGISTRY

ROOT = Path(__file__).resolve().parent.parent

SERVICES: Mapping[str, str] = {
    "jobs": "anime_jobs",
    "generator": "anime_generator",
    "files": "anime_files",
    "echo-bridge": "anime_echo_bridge",
    "gateway": "anime_gateway",
}
ROOMS = {"__main__": 4, "handlers": 3, "queries": 3, "store": 2, "model": 1, "scheduler": 1}
"""The rooms of a service; a room imports none that stands higher."""

PURE_ROOMS = {"model", "scheduler"}
PURE_OURS = tuple(f"anime_common.{name}" for name in ("contracts", "messages", "outcomes", "artifact_keys", "prompts"))
IMPURE_STANDARD = {"asyncio", "os", "pathlib", "random", "secrets", "socket", "subprocess", "threading", "time"}
CLOCKS = {("datetime", "now"), ("datetime", "utcnow"), ("date", "today"), ("time", "time"), ("time", "monotonic")}

MAY_IMPORT_NATS = {"anime_common.bus", "anime_common.pull", "anime_common.rpc"}
MAY_READ_THE_ENVIRONMENT = {
    "anime_cli.parts",  # hands our own environment on to the services it starts
}
PROGRAM_VARIABLES = {"PATH", "HOME"}
"""What child programs need of the environment; no setting of ours."""

ONE_MACHINE = re.compile(r"/(?:home|Users)/[a-z]|/root/")
"""Paths that exist on somebody's machine, or beside a checkout, alone."""


@dataclass(frozen=True)
class Module:
    """A Python module of ours."""

    name: str
    path: Path

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @property
    def room(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def tree(self) -> ast.Module:
        return _parsed(self.path)

    def imports(self, *, type_checking: bool = True) -> set[str]:
        """The modules it imports (for `from a import b` both `a` and `a.b`)."""
        found: set[str] = set()
        for node in self.tree.body if not type_checking else [self.tree]:
            if not type_checking and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            for each in ast.walk(node):
                if isinstance(each, ast.Import):
                    found |= {alias.name for alias in each.names}
                elif isinstance(each, ast.ImportFrom) and each.module:
                    found |= {each.module, *(f"{each.module}.{alias.name}" for alias in each.names)}
        return found


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def modules() -> tuple[Module, ...]:
    """Every module of the libraries and services."""
    found = []
    for folder in (*(ROOT / "libs").iterdir(), *(ROOT / "services").iterdir()):
        for path in sorted(folder.glob("anime_*/**/*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found.append(Module(".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return tuple(found)


def of(package: str) -> list[Module]:
    found = [module for module in modules() if module.package == package]
    assert found, f"{package} has no modules: does this test look in the right place?"
    return found


def test_no_service_imports_another_and_no_library_imports_a_service() -> None:
    packages = set(SERVICES.values())
    for module in modules():
        allowed = {module.package}
        forbidden = (packages | {"anime_cli"}) - allowed
        wrong = {name for name in module.imports() if name.partition(".")[0] in forbidden}
        assert not wrong, f"{module.name} imports {sorted(wrong)}"


def test_only_the_bus_imports_nats() -> None:
    for module in modules():
        if any(name.partition(".")[0] == "nats" for name in module.imports()):
            assert module.name in MAY_IMPORT_NATS
    assert {module.name for module in modules()} >= MAY_IMPORT_NATS


def test_the_id_of_a_message_is_made_by_its_contract_alone() -> None:
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Outgoing":
                strings = [
                    each for argument in node.args for each in ast.walk(argument) if isinstance(each, ast.JoinedStr)
                ]
                assert not strings, f"{module.name}:{node.lineno} puts an id together: use Message.ident"


@pytest.mark.parametrize("package", SERVICES.values())
def test_rooms_import_downwards_only(package: str) -> None:
    for module in of(package):
        rank = ROOMS.get(module.room)
        if rank is None:
            continue
        for other, height in ROOMS.items():
            if height > rank:
                assert f"{package}.{other}" not in module.imports(), f"{module.name} imports {other}"


@pytest.mark.parametrize("package", SERVICES.values())
def test_models_are_pure(package: str) -> None:
    by_name = {module.name: module for module in of(package)}
    for module in of(package):
        if module.room not in PURE_ROOMS:
            continue
        for reached in _reached(module, by_name):
            for name in reached.imports(type_checking=False):
                top = name.partition(".")[0]
                ours = top == package or name.startswith(PURE_OURS) or name == "anime_common"
                standard = top in sys.stdlib_module_names and top not in IMPURE_STANDARD
                assert ours or standard, f"{module.name} is pure, but {reached.name} imports {name}"
            for node in ast.walk(reached.tree):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    called = (node.value.id, node.attr)
                    assert called not in CLOCKS, f"{reached.name}:{node.lineno} reads a clock: time is an argument"


def _reached(start: Module, by_name: Mapping[str, Module]) -> Iterator[Module]:
    """A module and every module of its package that importing it runs."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        module = todo.pop()
        if module.name in seen:
            continue
        seen.add(module.name)
        yield module
        todo += [by_name[name] for name in module.imports(type_checking=False) if name in by_name]


@pytest.mark.parametrize("package", ["anime_common", "anime_cli", *SERVICES.values()])
def test_modules_do_not_import_each_other_in_circles(package: str) -> None:
    by_name = {module.name: module for module in of(package)}
    graph = {
        name: {each for each in module.imports(type_checking=False) if each in by_name and each not in {name, package}}
        for name, module in by_name.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' → '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for each in sorted(graph[name]):
                visit(each, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_only_settings_read_the_environment() -> None:
    for module in modules():
        if module.room == "settings" or module.name in MAY_READ_THE_ENVIRONMENT:
            continue
        for node in ast.walk(module.tree):
            text = ast.unparse(node) if isinstance(node, ast.Call | ast.Subscript | ast.Attribute) else ""
            if text.startswith(("os.getenv", "getenv(", "environ")):
                pytest.fail(f"{module.path}:{node.lineno} reads the environment: that is for settings.py")  # type: ignore[attr-defined]
            if text == "os.environ":
                assert _reads_a_program_variable(module, node), f"{module.path} reads the environment"


def _reads_a_program_variable(module: Module, environ: ast.AST) -> bool:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.value is environ:
            name = node.args[0]
            return isinstance(name, ast.Constant) and name.value in PROGRAM_VARIABLES
    return False


def test_settings_of_ours_are_named_anime() -> None:
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.keyword) and node.arg == "env_prefix":
                assert ast.literal_eval(node.value) == "ANIME_", module.name


@pytest.mark.parametrize(("service", "package"), SERVICES.items())
def test_every_service_has_what_a_service_has(service: str, package: str) -> None:
    folder = ROOT / "services" / service
    for name in ("README.md", "Dockerfile", "pyproject.toml", f"{package}/__main__.py", f"{package}/py.typed"):
        assert (folder / name).is_file(), f"services/{service} has no {name}"
    readme = (folder / "README.md").read_text().lower()
    for topic in ("consumes", "emits", "settings"):
        assert topic in readme, f"the README of {service} does not say what it {topic}"
    assert f'name = "tower-anime-{service}"' in (folder / "pyproject.toml").read_text()


def test_every_contract_has_a_golden_example() -> None:
    assert contracts.__all__
    golden = {path.stem for path in (ROOT / "tests" / "contracts" / "golden").glob("*.json")}
    assert golden == set(REGISTRY), "run `make generated`"


def test_nothing_depends_on_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path == Path(__file__) or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        assert not ONE_MACHINE.findall(text), f"{name} depends on one machine"
