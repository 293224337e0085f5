"""The guides: open to everybody, linked with each other, with commands that can be typed as they stand."""

from __future__ import annotations

import io
import re
import shlex
import zipfile
from html import unescape

import pytest
from flask import Flask
from flask.testing import FlaskClient

from agent.arguments import parser
from agent.scripts import manifest
from agent.scripts.curves import Curves
from routes.guides import GUIDES
from services.gateways import gateways

NAMES = [guide.name for guide in GUIDES]


@pytest.fixture
def visitor(sqlite_app: Flask) -> FlaskClient:
    return sqlite_app.test_client()


def page(visitor: FlaskClient, path: str) -> str:
    answer = visitor.get(path, headers={"Accept": "text/html"})
    assert answer.status_code == 200
    return answer.text


def blocks(text: str) -> list[str]:
    """What the copy buttons copy."""
    found = re.findall(r'<div class="copy-block"><pre id="[^"]*">(.*?)</pre>', text, re.DOTALL)
    return [unescape(re.sub(r"<[^>]*>", "", block)) for block in found]


def test_the_list_leads_to_every_guide_without_an_account(visitor: FlaskClient) -> None:
    text = page(visitor, "/guides")
    for name in NAMES:
        assert f'href="/guides/{name}"' in text
        assert "<h1>" in page(visitor, f"/guides/{name}")


def test_a_guide_that_does_not_exist_says_where_the_others_are(visitor: FlaskClient) -> None:
    answer = visitor.get("/guides/nothing", headers={"Accept": "text/html"})
    assert answer.status_code == 404 and "/guides" in answer.text


@pytest.mark.parametrize("name", NAMES)
def test_no_link_of_a_guide_is_dead(visitor: FlaskClient, name: str) -> None:
    text = page(visitor, f"/guides/{name}")
    body = text[text.index("<article") : text.index("</article>")]
    for address in set(re.findall(r'(?:href|src)="(/[^"]*)"', body)):
        path, _, part = address.partition("#")
        answer = visitor.get(path, headers={"Accept": "text/html"})
        assert answer.status_code in (200, 302), address  # what is a member's own asks who it is
        assert not part or answer.status_code == 302 or f'id="{part}"' in answer.text or answer.mimetype != "text/html"


@pytest.mark.parametrize("name", NAMES)
def test_commands_name_this_site_and_are_understood_by_the_agent(
    sqlite_app: Flask, visitor: FlaskClient, name: str
) -> None:
    with sqlite_app.app_context():
        settings = gateways().settings
    text = page(visitor, f"/guides/{name}")
    assert "example.com" not in text
    commands = [line for block in blocks(text) for line in block.splitlines() if "train_agent.py" in line]
    for command in commands:
        words = shlex.split(command.replace("...", "x"))
        if "train_agent.py" not in words or "zipfile" in words:
            continue  # the download, and looking inside
        typed = words[words.index("train_agent.py") + 1 :]
        typed = typed[: typed.index(">")] if ">" in typed else typed
        verb = [] if typed and not typed[0].startswith("-") else ["connect"]
        options = parser().parse_args([*verb, *typed])
        assert getattr(options, "server_url", None) in (None, settings.socket_url)


def test_the_download_is_the_agent(visitor: FlaskClient) -> None:
    address = next(
        word
        for block in blocks(page(visitor, "/guides/setup"))
        for word in block.split()
        if word.endswith(".py") and "//" in word
    )
    answer = visitor.get("/" + address.split("/", 3)[3])
    assert answer.status_code == 200 and zipfile.is_zipfile(io.BytesIO(answer.data))


def test_the_example_of_a_manifest_is_one(visitor: FlaskClient) -> None:
    (example,) = [block for block in blocks(page(visitor, "/guides/scripts")) if "[parameters.lr]" in block]
    parsed = manifest.parse(example.encode())
    assert parsed.entry == "train.py" and parsed.parameters[0].default == 0.001
    assert set(re.findall(r"^(\w+) = ", example, re.MULTILINE)) >= set(manifest._KNOWN) - {"parameters"}


def test_every_printed_form_that_the_guide_shows_is_read(visitor: FlaskClient) -> None:
    text = page(visitor, "/guides/scripts")
    (shown,) = re.findall(r'aria-label="Printed forms that are understood">(.*?)</pre>', text, re.DOTALL)
    for line in unescape(shown).splitlines():
        curves = Curves()
        points = [*curves.feed(f"{line}\n".encode()), *curves.close()]
        assert any(point.values for point in points), line
    assert all(form in shown for form in ("Epoch: [0][", "Test: [", "valid_0"))
    assert "fastai, spaCy and ultralytics" in text


def test_the_guide_says_where_parameters_are_fields(visitor: FlaskClient) -> None:
    text = page(visitor, "/guides/scripts")
    assert "fields appear for a script that was uploaded" in text and "unless you type arguments" in text


def test_what_the_agent_may_do_names_its_limit(visitor: FlaskClient) -> None:
    text = page(visitor, "/guides/what-the-agent-may-do")
    assert "runs with your rights" in text and "--allow-scripts" in text and "container" in text


def test_agents_and_the_foot_of_every_page_lead_to_the_guides(visitor: FlaskClient) -> None:
    assert 'href="/guides"' in page(visitor, "/")
    visitor.post("/login", data={"email": "alice@example.com", "password": "correct horse battery"})
    text = page(visitor, "/agents")
    for name in ("setup", "troubleshooting", "what-the-agent-may-do"):
        assert f'href="/guides/{name}"' in text
