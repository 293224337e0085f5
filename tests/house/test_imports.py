"""Who may import whom: routes -> services -> models, services downward only, torch never in the web."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FLOORS = [
    ["errors"],
    ["config", "calendar", "secrets", "strict_json", "dataset_quality", "inspections"],
    ["catalogues", "gateways"],
    [
        "price_list",
        "mails",
        "dataset_inspection",
        "script_inspection",
        "agent_program",
        "web_worker",
        "api_keys",
        "agents",
        "signs_of_life",
        "idempotency",
        "workers",
    ],
    ["notices"],
    ["credits"],
    ["subscriptions", "usage"],
    ["payments", "reconcile"],
    ["accounts", "uploads"],
    ["model_versions"],
    ["datasets", "base_models"],
    ["training_jobs"],
    ["agent_sessions", "attempt_files", "server_files"],
    ["clock"],
    ["admin"],
    ["yard"],
]
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}
AGENT_FOR_SERVER = {
    "agent.protocol", "agent.artifact_names", "agent.recipes", "agent.formats", "agent.build", "agent.scripts.manifest",
    "agent.scripts.archive", "agent.__version__",
}  # fmt: skip


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module a file imports, anywhere in it; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def starting(names: set[str], *packages: str) -> set[str]:
    return {name for name in names if name.split(".")[0] in packages}


@pytest.mark.parametrize("path", modules("models"), ids=str)
def test_models_import_no_other_room(path: Path) -> None:
    assert starting(imported(path), "services", "routes", "agent", "app", "flask", "torch") == set()


@pytest.mark.parametrize("path", modules("services"), ids=str)
def test_services_import_downward(path: Path) -> None:
    names = imported(path)
    assert starting(names, "routes", "app", "torch", "transformers") == set()
    own = path.relative_to(ROOT / "services").parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in starting(names, "services"):
        other = name.split(".")[1]
        assert other == own or FLOOR_OF[other] < FLOOR_OF[own], f"{own} must not import {other}"


def test_every_service_has_a_floor() -> None:
    there = {path.name.removesuffix(".py") for path in (ROOT / "services").iterdir()} - {"__init__", "__pycache__"}
    assert there == set(FLOOR_OF)


@pytest.mark.parametrize(
    "path", [*modules("models"), *modules("services"), *modules("routes"), ROOT / "app.py"], ids=str
)
def test_the_server_imports_only_the_torch_free_parts_of_the_agent(path: Path) -> None:
    for name in starting(imported(path), "agent"):
        assert any(name == allowed or name.startswith(f"{allowed}.") for allowed in AGENT_FOR_SERVER), name


@pytest.mark.parametrize("path", modules("agent"), ids=str)
def test_the_agent_imports_nothing_of_the_server(path: Path) -> None:
    assert starting(imported(path), "models", "services", "routes", "app", "flask", "sqlalchemy") == set()


@pytest.mark.parametrize("path", modules("routes"), ids=str)
def test_routes_write_nothing(path: Path) -> None:
    calls = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert calls & {"commit", "rollback", "flush", "add_all"} == set()


def test_only_the_unit_of_work_commits() -> None:
    there = [
        path
        for folder in ("models", "services", "routes")
        for path in modules(folder)
        if ".commit(" in path.read_text()
    ]
    assert [path.relative_to(ROOT).as_posix() for path in there] == ["models/base.py"]


def test_only_the_configuration_reads_the_environment() -> None:
    for folder in ("models", "services", "routes"):
        for path in modules(folder):
            if "os.environ" in path.read_text() or "getenv" in path.read_text():
                assert path.relative_to(ROOT).as_posix() in ("services/config.py", "services/yard.py"), path


def test_serving_pages_never_loads_torch(tmp_path: Path) -> None:
    code = "import sys, wsgi; loaded = {'torch', 'transformers', 'peft'} & set(sys.modules); sys.exit(str(loaded) if loaded else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"VAR_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
