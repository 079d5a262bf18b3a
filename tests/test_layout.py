"""The house rules: who may import whom, what lies at the top, how long a file may be."""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

CORE = (
    "alike answers arithmetic arrays arrivals average batch bookkeeping buffers classes codec config "
    "continual encoding evaluator events exam features forgetting hashing heldout images layouts learner "
    "learner_parts ledger losses method methods methods.* metrics model modifiers modifiers.* nets "
    "normalise optimise options parsing piles prequential prototypes reasons rows schedule schema section "
    "serving state tape threads trainer transfer views words"
).split()
"""Functions of their arguments: no clock, file, network, log or environment."""

EFFECTS = (
    "__init__ __main__ bench bench_plan bench_pool bench_report bench_results bench_runs bench_settings "
    "bench_statistics bench_summary bench_table broker_commands check checkpoint clashes cli collector "
    "commands contender cuts demo demo_view durable exporter exposition families flags group histograms "
    "inspect instruments keeper live logs observe outlet packs page page.charts page.facts page.front "
    "page.markup page.prototypes page.sections parts poison publish report run runtime settings "
    "settings_help standby start stop surroundings tell topics watchdog wiring worker"
).split()
"""Everything that touches the world."""

FORBIDDEN_IN_CORE = set(
    "time datetime os sys io pathlib logging socket random threading subprocess asyncio tempfile shutil "
    "prometheus_client faust aiokafka kafka http urllib".split()
)
FORBIDDEN_CALLS_IN_CORE = {"open", "hash", "print"}
OF_STREAMLEARN_IN_CONNECTORS = {"streamlearn.events", "streamlearn.codec"}
TOP_LEVEL = set(
    "pyproject.toml README.md LICENSE streamlearn connectors ops tests docker-compose.yml".split()
)
LONGEST_FILE = 400


def name_of(path: Path) -> str:
    """streamlearn/methods/er.py -> streamlearn.methods.er; a package goes by its own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def modules(package: str) -> dict[str, Path]:
    return {name_of(path): path for path in sorted((ROOT / package).rglob("*.py"))}


OURS = modules("streamlearn")
ALL = {**OURS, **modules("connectors"), **modules("tests")}


def is_core(name: str) -> bool:
    return any(fnmatchcase(name.removeprefix("streamlearn."), pattern) for pattern in CORE)


@cache
def statements(path: Path) -> list[ast.Import | ast.ImportFrom | ast.Call]:
    """What of a file these tests look at."""
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom | ast.Call)]


@cache
def imports(path: Path) -> list[str]:
    """Every name that a file imports, in full: `from a import b` is a.b; relative ones are resolved."""
    package = name_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    names: list[str] = []
    for node in statements(path):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names += (f"{module}.{alias.name}" for alias in node.names)
    return names


def module_of(name: str) -> str:
    """The module of ours that an imported name means: streamlearn.events.Event -> streamlearn.events."""
    while name not in OURS and "." in name:
        name = name.rpartition(".")[0]
    return name if name in OURS else "streamlearn.__init__"


def dotted(node: ast.expr) -> str:
    """`a.b.c` as it is written; what is called on anything but names is `?.c`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def calls(path: Path) -> Iterator[tuple[str, int]]:
    for node in statements(path):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node.lineno


def listed(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_module_is_core_or_effect() -> None:
    effects = {name for name in OURS if name.removeprefix("streamlearn.") in EFFECTS}
    unlisted = [name for name in OURS if not is_core(name) and name not in effects]
    assert not unlisted, f"list {', '.join(unlisted)} in CORE or in EFFECTS of tests/test_layout.py"
    assert not [name for name in effects if is_core(name)], "listed twice"


def test_core_imports_no_effect_and_no_world() -> None:
    wrong = []
    for name, path in OURS.items():
        if not is_core(name):
            continue
        for imported in imports(path):
            top = imported.partition(".")[0]
            if top in FORBIDDEN_IN_CORE and imported != "io.BytesIO":
                wrong.append(f"{listed(path)} is core and imports {imported}")
            if top == "streamlearn" and not is_core(module_of(imported)):
                wrong.append(f"{listed(path)} is core and imports the effect {imported}")
    assert not wrong, "\n" + "\n".join(wrong)


def test_core_opens_hashes_and_prints_nothing() -> None:
    wrong = [
        f"{listed(path)}:{line} calls {call}"
        for name, path in OURS.items()
        if is_core(name)
        for call, line in calls(path)
        if call in FORBIDDEN_CALLS_IN_CORE
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def test_floors_are_kept() -> None:
    wrong = []
    for path in OURS.values():
        wrong += [
            listed(path)
            for imported in imports(path)
            if imported.partition(".")[0] in ("connectors", "tests")
        ]
    for path in modules("connectors").values():
        for imported in imports(path):
            mine = imported.partition(".")[0] == "streamlearn"
            if mine and module_of(imported) not in OF_STREAMLEARN_IN_CONNECTORS:
                wrong.append(f"{listed(path)} imports {imported}")
    assert not wrong, "\n" + "\n".join(wrong)


def test_no_pickle_anywhere() -> None:
    wrong = []
    for path in ALL.values():
        wrong += [
            f"{listed(path)} imports {imported}"
            for imported in imports(path)
            if imported.partition(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve")
        ]
        wrong += [
            f"{listed(path)}:{line} calls {call}"
            for call, line in calls(path)
            if call in ("torch.load", "torch.save") or (call == "time.sleep" and path.parent.name == "tests")
        ]
        wrong += [
            f"{listed(path)} imports {name}" for name in imports(path) if name in ("torch.load", "torch.save")
        ]
    wrong += [listed(path) for path in modules("tests").values() if "time.sleep" in set(imports(path))]
    assert not wrong, "\n" + "\n".join(wrong)


def repository_files() -> list[str]:
    """What git holds or would take."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"git: {done.stderr.strip()}")
    return [name for name in done.stdout.split("\0") if name]


def test_the_top_level_holds_what_was_agreed() -> None:
    top = {name.partition("/")[0] for name in repository_files()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_no_file_is_too_long_to_read() -> None:
    sources = [
        *ALL.values(),
        *(path for path in (ROOT / "ops").rglob("*") if path.suffix in ("", ".sh", ".py")),
    ]
    long = {
        listed(path): lines
        for path in sources
        if path.is_file() and (lines := len(path.read_text("utf-8").splitlines())) > LONGEST_FILE
    }
    assert long == {}, f"files of more than {LONGEST_FILE} lines: split them"
