"""Names and texts: what is documented exists, and nothing of the writer's machine is in the repository."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.repo.source import ROOT, files, modules

_TEXT = (".md", ".py", ".rs", ".toml", ".yaml", ".yml", ".json", ".proto", ".svelte", ".ts", ".lock", "")


def test_every_module_has_a_docstring() -> None:
    # Public names in src are held by ruff's D rules; tests and tools must at least say what they are about.
    undocumented = [
        m.path for below in ("src", "tests", "tools") for m in modules(below) if not ast.get_docstring(m.tree)
    ]
    assert undocumented == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    empty_names = {"utils", "util", "common", "misc", "helpers", "helper", "manager", "stuff"}
    assert [m.path for m in modules("src") if Path(m.path).stem in empty_names] == []


# Released names of the API, and names of RFC 6455.
_EXCEPTIONS = {"StandingView", "GOING_AWAY"}


def _avoided_words() -> set[str]:
    """The last column of the glossary; `passed_on` is two words that follow each other in a name."""
    glossary = (ROOT / "CONTRIBUTING.md").read_text().partition("## Glossary")[2]
    rows = [line.split("|") for line in glossary.splitlines() if line.startswith("| ")][1:]
    return {word.strip() for row in rows for word in row[3].split(",") if word.strip()}


def _words(name: str) -> str:
    """A name in lower case with `_` around each word, so that `_word_` is in it only as a whole word."""
    return f"_{re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name).lower()}_"


@pytest.mark.parametrize("below", ["src", "tests", "tools"])
def test_names_use_the_words_of_the_glossary(below: str) -> None:
    avoided = _avoided_words()
    assert avoided, "the glossary says what not to use"
    found = {
        f"{module.path}: {name}"
        for module in modules(below)
        if "/versions/" not in module.path
        for name in _named_by(module.nodes, with_variables=below != "tests")
        if any(f"_{word}_" in _words(name) for word in avoided) and name not in _EXCEPTIONS
    }
    assert found == set()


def _named_by(nodes: Iterable[ast.AST], *, with_variables: bool) -> set[str]:
    """The names that a module gives to functions, classes and parameters, and with variables also to those and attributes."""
    names: set[str] = set()
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.arg(arg=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                if with_variables:
                    names.add(name)
            case _:
                pass
    return names


def test_every_file_that_contributing_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(
        r"`((?:src/|tests/|docs/|control/|sandboxes/|snapshots/|guests/|base/|base\.|agent/|vm/|audit/)[\w/.-]+)`",
        text,
    )
    places = [ROOT, ROOT / "src/wrenn", ROOT / "src/wrenn/control"]
    missing = {
        path
        for path in paths
        if not any(
            (place / path).exists() or (place / f"{path.replace('.', '/')}.py").exists() for place in places
        )
    }
    assert missing == set()


def test_every_class_that_contributing_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`(?:\w+\.)*([A-Z][a-z]+(?:[A-Z][a-z]*)+)\b", text))
    classes = {node.name for m in modules("src") for node in m.nodes if isinstance(node, ast.ClassDef)}
    assert named, "classes are found by their names"
    assert named - classes == set()


def test_every_folder_of_the_source_is_in_the_architecture() -> None:
    text = (ROOT / "docs/design/architecture.md").read_text()
    tables = text.partition("## Folders")[2].partition("## Layering")[0]
    rows = "".join(line.split("|")[1] for line in tables.splitlines() if line.startswith("|"))
    below = ROOT / "src/wrenn"
    folders = {
        path.relative_to(below).parent
        for path in files(".py")
        if path.is_relative_to(below) and path.name == "__init__.py"
    }
    expected = {
        folder.as_posix()
        for folder in folders
        if (len(folder.parts) == 1 and folder.name != "control") or folder.parent == Path("control")
    }
    assert expected, "packages are found by their __init__.py"
    assert {folder for folder in expected if f"`{folder}`" not in rows} == set()


def _expanded(name: str) -> list[str]:
    """`vm/{qemu,firecracker}/driver.py` names two files."""
    match = re.fullmatch(r"(.*)\{(.*)\}(.*)", name)
    return [match[1] + part + match[3] for part in match[2].split(",")] if match else [name]


@pytest.mark.parametrize("page", sorted((ROOT / "docs/design").glob("*.md")), ids=lambda page: page.name)
def test_every_source_file_that_a_design_page_names_exists(page: Path) -> None:
    paths = [f"/{path.relative_to(ROOT).as_posix()}" for path in files(".py", ".rs", ".proto")]
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    named = {
        name
        for code in re.findall(r"`([^`\n]+)`", text)
        for match in re.findall(r"(?<![\w*.-])[\w{},/.-]*\.(?:py|rs|proto)\b", code)
        for name in _expanded(match)
    }
    assert {name for name in named if not any(path.endswith(f"/{name}") for path in paths)} == set()


def test_every_setting_of_the_programs_is_documented() -> None:
    page = (ROOT / "docs/reference/settings.md").read_text()
    read = {
        node.value
        for module in modules("src")
        if module.path.endswith("/settings.py")
        for node in module.nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"WRENN_[A-Z0-9_]*[A-Z0-9]", node.value)
    }
    assert read, "settings are found by their names"
    # `WRENN_FAULTS` is for tests only.
    assert {name for name in read if f"`{name}`" not in page} - {"WRENN_FAULTS"} == set()


def test_no_work_is_left_as_a_note() -> None:
    left = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files(".py", ".rs", ".ts", ".svelte")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(r"\b(?:TODO|FIXME|XXX|HACK)\b", line)
    ]
    assert left == []


def test_nothing_names_the_machine_it_was_written_on() -> None:
    personal = re.compile(
        rf"{re.escape(str(ROOT))}\b|{re.escape(str(Path.home()))}/\w|/home/(?!user\b|<)\w+/"
    )
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in files(*_TEXT)
        if path != Path(__file__) and (match := personal.search(path.read_text(errors="replace")))
    ]
    # `/root` is the home of root in every guest, so it says nothing when the tests run as root.
    assert [line for line in found if Path.home() != Path("/root") or "/root/" not in line] == []


def test_the_lock_of_python_packages_names_no_host() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()


@pytest.mark.parametrize("page", files(".md"), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    targets = [
        target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:|#", target)
    ]
    assert [target for target in targets if not (page.parent / target.split("#")[0]).exists()] == []


def _recipes() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_documented_make_recipe_exists() -> None:
    missing = {
        f"{page.relative_to(ROOT)}: make {recipe}"
        for page in files(".md")
        for recipe in re.findall(
            r"`make ([a-z][a-z-]*)|^\s*(?:sudo )?make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE
        )
        for recipe in filter(None, recipe)
        if recipe not in _recipes()
    }
    assert missing == set()


def test_every_make_recipe_is_listed_by_make_help() -> None:
    described = set(re.findall(r"^([a-z][a-z-]*):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert described == _recipes()


def test_every_fault_point_is_used_by_a_test() -> None:
    points = {
        name
        for module in modules("src")
        for node in module.nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fault_point"
        for name in [node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None]
        if isinstance(name, str)
    }
    tests = "".join(path.read_text() for path in files(".py") if path.is_relative_to(ROOT / "tests"))
    assert {point for point in points if not _names(tests, point)} == set()


def _names(tests: str, point: str) -> bool:
    """Whether the tests have the name of a point, whole or as `f"beginning{…}"` with its end as a parameter."""
    cuts = [match.end() for match in re.finditer(r"[._]", point)]
    return point in tests or any(point[:cut] + "{" in tests and f'"{point[cut:]}"' in tests for cut in cuts)
