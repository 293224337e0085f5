"""The agent to download: the file under both names, and the wheel under the name that pip wants."""

from __future__ import annotations

import io
import json
import zipfile

import pytest
from flask import Flask
from flask.testing import FlaskClient

from agent.build import WHEEL_NAME
from services.gateways import gateways


def carried(content: bytes) -> str:
    return str(json.loads(zipfile.ZipFile(io.BytesIO(content)).read("agent/site.json"))["server_url"])


@pytest.mark.parametrize("address", ["/train_agent.py", "/train_agent.pyz", f"/{WHEEL_NAME}"])
def test_everybody_may_download_it_with_the_sites_address_inside(
    sqlite_app: Flask, client: FlaskClient, address: str
) -> None:
    first, again = client.get(address), client.get(address)
    assert first.status_code == 200 and first.data == again.data
    with sqlite_app.app_context():
        assert carried(first.data) == gateways().settings.socket_url


def test_the_address_of_the_wheel_that_stays_leads_to_the_one_with_the_version(
    sqlite_app: Flask, client: FlaskClient
) -> None:
    answer = client.get("/trainyard_agent.whl")
    assert (answer.status_code, answer.headers["Location"]) == (302, f"/{WHEEL_NAME}")
    wheel = client.get(answer.headers["Location"])
    assert wheel.headers["Content-Disposition"].endswith(WHEEL_NAME)
