"""The one file that the site offers and the wheel: both run anywhere, and the same sources give the same bytes."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from agent import __version__
from agent.build import WHEEL_NAME, build, build_wheel, main
from tests.agent import pretend_recipe
from tests.agent.fake_server import KEY, FakeServer


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with nothing but its standard library."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    for write in (build, build_wheel):
        write(tmp_path / "a", "ws://localhost:5000")
        write(tmp_path / "b", "ws://localhost:5000")
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_same_sources_give_the_same_bytes_whenever_and_wherever(tmp_path: Path) -> None:
    """Two processes with other hash seeds, time zones, umasks and folders of work write the same file and the same wheel."""
    found = []
    for number, zone in enumerate(("UTC", "Asia/Kathmandu")):
        folder = tmp_path / str(number)
        folder.mkdir()
        environment = {
            "PYTHONPATH": str(pretend_recipe.ROOT),
            "PYTHONHASHSEED": str(number),
            "TZ": zone,
            "PATH": "/usr/bin:/bin",
        }
        subprocess.run(
            [sys.executable, "-m", "agent.build", folder / "train_agent.pyz", "wss://example.com"], env=environment,
            cwd=folder, umask=0o077 if number else 0o022, check=True,
        )  # fmt: skip
        found.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert set(found[0]) == {"train_agent.pyz", WHEEL_NAME}
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    main([str(folder / "train_agent.pyz"), "wss://example.com"])
    return folder / WHEEL_NAME


def test_the_wheel_is_one_by_the_letter(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    about = f"trainyard_agent-{__version__}.dist-info"
    rows = list(csv.reader(io.StringIO(archive.read(f"{about}/RECORD").decode())))
    assert {name for name, _, _ in rows} == set(archive.namelist())
    for name, digest, size in rows:
        if name == f"{about}/RECORD":
            assert (digest, size) == ("", "")
            continue
        content = archive.read(name)
        expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        assert (digest, size) == (f"sha256={expected}", str(len(content)))
    assert archive.namelist()[-1].startswith(about)
    described = archive.read(f"{about}/METADATA").decode()
    assert f"Version: {__version__}\n" in described and "Requires-Python: >=3.11\n" in described
    assert "Requires-Dist: websockets" in described and "Requires-Dist: rich" in described
    assert not [name for name in archive.namelist() if name.startswith(("websockets", "rich"))]


def test_the_wheel_needs_what_this_repository_is_tested_with(wheel: Path) -> None:
    from importlib import metadata

    specifiers = pytest.importorskip("packaging.requirements")
    described = zipfile.ZipFile(wheel).read(f"trainyard_agent-{__version__}.dist-info/METADATA").decode()
    needed = [
        line.removeprefix("Requires-Dist: ") for line in described.splitlines() if line.startswith("Requires-Dist")
    ]
    for requirement in map(specifiers.Requirement, needed):
        assert requirement.specifier.contains(metadata.version(requirement.name)), requirement


def test_the_unpacked_wheel_answers_and_knows_its_site(wheel: Path, bare_python: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import sys; from agent.__main__ import main; sys.exit(main(['service', '--format', 'systemd']))"
    environment = {"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    answer = subprocess.run([bare_python, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert answer.returncode == 0, answer.stderr
    assert "--server-url wss://example.com" in answer.stdout


@pytest.mark.whole
def test_pip_installs_the_wheel_with_its_command(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "fresh"], check=True, timeout=120)
    python, command = tmp_path / "fresh/bin/python", tmp_path / "fresh/bin/trainyard-agent"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True, timeout=120
    )
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == __version__
    status = subprocess.run([command, "status", "--home", tmp_path], capture_output=True, text=True, timeout=60)
    assert (status.returncode, status.stderr) == (1, "")
    assert subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True).stdout.count("requires") == 2


def test_it_holds_no_compiled_code_and_the_licences_of_what_it_carries(tmp_path: Path) -> None:
    build(tmp_path / "train_agent.py", "ws://localhost:5000")
    names = zipfile.ZipFile(tmp_path / "train_agent.py").namelist()
    assert all(name.endswith((".py", ".json", ".txt")) for name in names)
    assert [name for name in names if name.startswith("licences/websockets")]
    assert [name for name in names if name.startswith("licences/rich")]
    assert {"__main__.py", "agent/__main__.py", "agent/protocol.py", "agent/recipes/__init__.py"} <= set(names)
    assert (tmp_path / "train_agent.py").read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert (tmp_path / "train_agent.py").stat().st_size < 2_000_000


def test_an_old_python_gets_a_sentence(tmp_path: Path) -> None:
    build(tmp_path / "a.py", None)
    source = zipfile.ZipFile(tmp_path / "a.py").read("__main__.py").decode()
    old = source.replace("sys.version_info", "(3, 9)")
    (tmp_path / "main.py").write_text(old)
    answer = subprocess.run([sys.executable, tmp_path / "main.py"], capture_output=True, text=True)
    assert answer.returncode == 1
    assert "needs Python 3.11 or newer" in answer.stderr and "Traceback" not in answer.stderr


def test_in_a_bare_python_it_connects_to_its_site_and_says_what_is_missing(
    site: FakeServer, bare_python: Path, tmp_path: Path
) -> None:
    program = tmp_path / "train_agent.py"
    build(program, site.url)
    environment = {**pretend_recipe.environment(tmp_path, HOME=str(tmp_path)), "PYTHONPATH": ""}
    with (tmp_path / "out").open("wb") as out:
        agent = subprocess.Popen([bare_python, program, "--api-key", KEY], env=environment, stdout=out, stderr=out)
    try:
        hello = site.wait_for(lambda: site.hellos)[0]
        assert hello["ready"] is False and hello["missing"][0] == "torch"
        site.offer(recipe="language")
        refused = site.refusal()
        assert f'{bare_python} -m pip install "torch==2.13.*" "transformers>=5,<6" "peft"' in refused["advice"]
        assert (
            "Not ready: torch, transformers, peft, safetensors and tokenizers missing" in (tmp_path / "out").read_text()
        )
    finally:
        agent.terminate()
        assert agent.wait(10) == 0


def test_the_file_itself_trains_with_supervisor_and_child(site: FakeServer, tmp_path: Path) -> None:
    program = tmp_path / "train_agent.py"
    build(program, "ws://localhost:1")
    environment = pretend_recipe.environment(tmp_path, HOME=str(tmp_path))
    environment["PYTHONPATH"] = f"{program}:{tmp_path / 'site'}"
    agent = subprocess.Popen(
        [sys.executable, program, "--api-key", KEY, "--server-url", site.url], env=environment, cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        site.offer(parameters={"steps": 4})
        assert site.end()["outcome"] == "completed"
        assert site.attempt().steps() == [1, 2, 3, 4]
    finally:
        agent.terminate()
        agent.wait()


@pytest.mark.parametrize("verb", [["--help"], ["doctor"], ["connect", "--help"], ["status"], ["stop"], ["config"]])
def test_its_verbs_answer_in_a_bare_python(bare_python: Path, tmp_path: Path, verb: list[str]) -> None:
    program = tmp_path / "any-name"
    build(program, None)
    answer = subprocess.run([bare_python, "-I", program, *verb], capture_output=True, text=True, cwd=tmp_path)
    assert "Traceback" not in answer.stderr
    assert answer.stdout


def test_the_live_view_draws_from_what_the_file_carries(bare_python: Path, tmp_path: Path) -> None:
    program = tmp_path / "train_agent.py"
    build(program, None)
    script = (
        f"import sys; sys.path.insert(0, {str(program)!r})\n"
        "from agent.screen import LiveScreen, Line, Progress\n"
        "screen = LiveScreen()\n"
        "screen.connection('connected', 'Connected to the yard.')\n"
        "progress = Progress(stage='train', step=40, total_steps=100, loss=2.5)\n"
        "screen.jobs([Line(7, 'maths', progress)])\n"
        "screen.note('A [note] with brackets.')\n"
        "screen.close()\n"
    )
    answer = subprocess.run([bare_python, "-I", "-c", script], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "step 40 of 100, loss 2.5000" in answer.stdout
    assert "A [note] with brackets." in answer.stdout
