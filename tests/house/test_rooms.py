"""What every room keeps: guards, names, settings, the map, migrations, an agent that stands alone."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from flask import Flask

from models.base import db
from routes import BLUEPRINTS

ROOT = Path(__file__).parent.parent.parent
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "manager"}
CODE = ("models", "services", "routes", "agent", "tests")


def test_every_address_belongs_to_a_guarded_blueprint(sqlite_app: Flask) -> None:
    guarded = {name for _, name, _, _ in BLUEPRINTS}
    for rule in sqlite_app.url_map.iter_rules():
        assert rule.endpoint == "static" or rule.endpoint.rpartition(".")[0] in guarded, rule


def views() -> list[tuple[str, ast.FunctionDef]]:
    found = []
    for path in sorted((ROOT / "routes").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and any("bp." in ast.unparse(d) for d in node.decorator_list):
                found.append((f"{path.stem}.{node.name}", node))
    return found


@pytest.mark.parametrize("name, view", [(n, v) for n, v in views() if any(a.arg in ("id", "job") for a in v.args.args)],
                         ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_a_view_with_an_id_asks_for_the_object_as_its_actor(name: str, view: ast.FunctionDef) -> None:
    calls = [ast.unparse(node) for node in ast.walk(view) if isinstance(node, ast.Call)]
    assert any(
        re.search(r"\(actor\(\), id\b|_get_for\(id\)|_own\(job, attempt\)|_checkout_page\(id\)", call) for call in calls
    ), name


def test_no_file_is_called_something_that_means_nothing() -> None:
    for folder in CODE:
        for path in (ROOT / folder).rglob("*"):
            assert path.stem not in FORBIDDEN_NAMES, path


def test_every_icon_that_a_page_asks_for_is_there() -> None:
    there = set(re.findall(r'<symbol id="([\w-]+)"', (ROOT / "static" / "icons.svg").read_text()))
    asked = {
        name: path.name
        for path in (ROOT / "templates").rglob("*.html")
        for name in re.findall(r'\b(?:icon\(|blank\(|note\("\w*", )"([\w-]+)"', path.read_text())
    }
    assert len(asked) > 20 and {name: page for name, page in asked.items() if name not in there} == {}


def test_template_folders_carry_the_names_of_routes() -> None:
    stems = {path.stem for path in (ROOT / "routes").glob("*.py")}
    folders = {path.name for path in (ROOT / "templates").iterdir() if path.is_dir()}
    assert folders - stems - {"components", "errors"} == set()


def test_the_example_of_settings_lists_every_setting() -> None:
    source = (ROOT / "services/config.py").read_text()
    read = set(re.findall(r'env(?:\.get\(|, )"([A-Z_]+)"', source))
    listed = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert listed == read


def test_the_map_in_the_readme_equals_the_tree() -> None:
    tracked = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                             capture_output=True, text=True, check=True).stdout.split()  # fmt: skip
    there = {name.split("/")[0] + ("/" if "/" in name else "") for name in tracked}
    readme = (ROOT / "README.md").read_text()
    block = readme.split("<!-- map -->")[1]
    mapped = set(re.findall(r"^([A-Za-z_.][\w./-]*)\s", block, re.MULTILINE))
    assert mapped == there


def test_migrations_from_zero_match_the_models(app: Flask) -> None:
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, db.metadata) == []


def test_the_agent_copied_into_an_empty_folder_answers(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "agent", tmp_path / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-m", "agent", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "connect" in done.stdout, done.stderr


def test_vendored_files_are_the_ones_that_were_checked() -> None:
    import hashlib
    import json

    for entry in json.loads((ROOT / "static/vendor/VENDOR.json").read_text()):
        path = ROOT / entry["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"], path


def test_nothing_names_this_or_that_registry_host() -> None:
    hosts = re.compile(r"pypi\.org|registry\.npmjs\.org|files\.pythonhosted|deb\.debian\.org")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        path = ROOT / name
        if (
            path.suffix in (".py", ".md", ".html", ".js", ".json", ".txt", ".toml", ".sh")
            and "vendor" not in path.parts
        ):
            if path.name != "test_rooms.py":
                assert not hosts.search(path.read_text(errors="ignore")), name
