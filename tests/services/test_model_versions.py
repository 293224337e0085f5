"""Models brought along from elsewhere: only safetensors that are whole, once, within the plan; and putting one away."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_migrate import downgrade, upgrade
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from app import create_app
from models.accounts import User
from models.base import db
from models.model_versions import ModelFile, ModelVersion
from models.uploads import Upload
from services import accounts, base_models, model_versions, subscriptions, training_jobs, uploads
from services.config import Settings
from services.errors import Conflict, Invalid, NotFound, PaymentNeeded, Unsupported
from services.gateways import gateways
from services.model_versions import weights
from tests import safetensors_files
from tests.conftest import PASSWORD, ROOT
from tests.factories import make_dataset, on_plan, order
from tests.till import at_once

CONFIG = json.dumps({"model_type": "gpt2", "_name_or_path": "org/parent"}).encode()


def uploaded(owner: User, *files: tuple[str, bytes]) -> list[tuple[str, str]]:
    return [(name, uploads.receive(owner, name.rpartition("/")[2], io.BytesIO(content)).id) for name, content in files]


def brought(owner: User, name: str = "mine", *files: tuple[str, bytes], base: str = "") -> ModelVersion:
    whole = files or (("model.safetensors", safetensors_files.file()), ("config.json", CONFIG))
    return model_versions.create(owner, name, "What it is.", base, uploaded(owner, *whole))


def test_a_model_brought_along_is_kept_with_its_files(app: Flask, alice: User) -> None:
    version = brought(alice)
    assert (version.version, version.job_id, version.method, version.base_name) == (1, None, "full", "org/parent")
    assert version.details["parameters"] == 4 and version.details["description"] == "What it is."
    assert [file.name for file in version.files] == ["config.json", "model.safetensors"]
    _, path = model_versions.file_of(version, "model.safetensors")
    assert path.read_bytes() == safetensors_files.file()
    assert db.session.scalar(select(func.count(Upload.id))) == 0
    assert model_versions.list_for(alice) == [version]


def test_the_same_files_again_are_the_same_version_and_others_the_next(app: Flask, alice: User) -> None:
    first = brought(alice)
    assert brought(alice).id == first.id
    other = brought(
        alice, "mine", ("model.safetensors", safetensors_files.file(buffer=b"\1" * 16)), ("config.json", CONFIG)
    )
    assert (other.version, other.trained_model_id) == (2, first.trained_model_id)


def test_a_training_can_begin_from_it(app: Flask, alice: User) -> None:
    on_plan(alice, "basic")
    version = brought(alice)
    base = base_models.resolve(alice, f"model:{version.id}", on_server=True)
    assert base.parameters == 4 and base.name.startswith("sha256:")
    data = make_dataset(alice)
    job = training_jobs.create(alice, order(data, base_model=f"model:{version.id}", name="on from it"))
    assert job.base_model == f"model:{version.id}"
    assert any(choice["value"] == f"model:{version.id}" for choice in base_models.choices(alice))


def test_weights_alone_are_kept_and_are_no_base(app: Flask, alice: User) -> None:
    version = brought(alice, "alone", ("model.safetensors", safetensors_files.file()))
    with pytest.raises(Invalid, match=r"no config\.json"):
        base_models.resolve(alice, f"model:{version.id}", on_server=True)


def test_an_adapter_names_its_base(app: Flask, alice: User) -> None:
    about = json.dumps({"base_model_name_or_path": "org/base"}).encode()
    files = (("adapter_model.safetensors", safetensors_files.file()), ("adapter_config.json", about))
    version = brought(alice, "adapter", *files)
    assert (version.method, version.base_name) == ("lora", "org/base")
    assert brought(alice, "adapter", *files[:1], base=f"model:{version.id}").base_name == "adapter, version 1"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "merged/x.PKL", "a.ckpt", "weights.npz", "model.h5"])
def test_what_can_run_code_is_refused_by_its_name(app: Flask, alice: User, name: str) -> None:
    with pytest.raises(Unsupported, match="Upload safetensors"):
        brought(alice, "bad", ("model.safetensors", safetensors_files.file()), (name, b"x"))


@pytest.mark.parametrize("content", [b"\x80\x04\x95rest", b"\x80\x02}q", b"PK\x03\x04archive/data.pkl"])
def test_what_can_run_code_is_refused_by_its_beginning(app: Flask, alice: User, content: bytes) -> None:
    with pytest.raises(Unsupported, match="Upload safetensors"):
        brought(alice, "bad", ("model.safetensors", safetensors_files.file()), ("weights.dat", content))


@pytest.mark.parametrize("name", ["../model.safetensors", "/model.safetensors", ".hidden.safetensors", "a\\b.safetensors", "a b.json ", "x/" * 8 + "a.json"])  # fmt: skip
def test_names_that_are_no_safe_path_are_refused(app: Flask, alice: User, name: str) -> None:
    with pytest.raises(Invalid, match="not a name for a file"):
        model_versions.create(alice, "bad", "", "", [("model.safetensors", "x"), (name, "x")])


@pytest.mark.parametrize("names", [[], ["config.json"], ["a.safetensors", "A.safetensors"]])
def test_a_list_without_weights_or_with_a_name_twice_is_refused(app: Flask, alice: User, names: list[str]) -> None:
    with pytest.raises(Invalid):
        model_versions.create(alice, "bad", "", "", [(name, "x") for name in names])


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_configuration_that_is_no_json_object_is_refused(app: Flask, alice: User, content: bytes) -> None:
    with pytest.raises(Invalid, match=r"config\.json is not a JSON object"):
        brought(alice, "bad", ("model.safetensors", safetensors_files.file()), ("config.json", content))


def test_uploads_of_others_or_unfinished_ones_are_refused(app: Flask, alice: User, bob: User) -> None:
    theirs = uploaded(bob, ("model.safetensors", safetensors_files.file()))
    with pytest.raises(Invalid, match="no such upload"):
        model_versions.create(alice, "bad", "", "", theirs)
    half = uploads.create(alice, "model.safetensors", 100)
    with pytest.raises(Conflict, match="not complete"):
        model_versions.create(alice, "bad", "", "", [("model.safetensors", half.id)])


def test_a_plan_keeps_so_many_models_and_deleting_one_makes_room(app: Flask, alice: User) -> None:
    first = brought(alice, "first")
    with pytest.raises(PaymentNeeded, match="keeps 1 model") as refusal:
        brought(alice, "second")
    assert "delete one" in refusal.value.message
    model_versions.delete(alice, first.id)
    assert brought(alice, "second").version == 1
    assert model_versions.list_for(alice) == [brought(alice, "second")]


def test_two_models_that_come_at_once_do_not_pass_the_plan_together(app: Flask, alice: User) -> None:
    number, files = alice.id, [uploaded(alice, ("model.safetensors", safetensors_files.file())) for _ in range(4)]

    def bring(turn: int) -> ModelVersion:
        return model_versions.create(db.session.get_one(User, number), f"model {turn}", "", "", files[turn])

    answers = at_once(app, *[partial(bring, turn) for turn in range(4)])
    assert sorted(type(answer).__name__ for answer in answers) == ["ModelVersion", *["PaymentNeeded"] * 3]


def test_of_several_that_use_the_same_uploads_one_makes_the_model(app: Flask, alice: User) -> None:
    number, files = alice.id, uploaded(alice, ("model.safetensors", safetensors_files.file()))

    def bring() -> ModelVersion:
        return model_versions.create(db.session.get_one(User, number), "one", "", "", files)

    answers = at_once(app, *[bring] * 4)
    assert sum(isinstance(answer, ModelVersion) for answer in answers) == 1
    assert all(isinstance(answer, (ModelVersion, Conflict, Invalid)) for answer in answers), answers
    assert len(model_versions.list_for(alice)) == 1
    assert len(list((gateways().storage.root / "models").iterdir())) == 1


def test_uploads_of_a_model_that_was_refused_can_be_used_again(app: Flask, alice: User) -> None:
    files = uploaded(alice, ("model.safetensors", safetensors_files.file()), ("config.json", b"["))
    with pytest.raises(Invalid, match="not a JSON object"):
        model_versions.create(alice, "one", "", "", files)
    assert model_versions.create(alice, "one", "", "", files[:1]).version == 1


def test_a_deleted_model_is_gone_and_its_name_is_free(app: Flask, alice: User, bob: User) -> None:
    first = brought(alice)
    with pytest.raises(NotFound):
        model_versions.delete(bob, first.id)
    model_versions.delete(alice, first.id)
    for verb in (model_versions.get_for, model_versions.delete):
        with pytest.raises(NotFound):
            verb(alice, first.id)
    again = brought(alice)
    assert (again.version, again.id != first.id) == (1, True)
    assert subscriptions.limit(alice, "models") == 1


BAD_FILES: list[tuple[str, bytes]] = [
    ("too short", b""),
    ("too short", b"\0" * 9),
    ("announces a header", safetensors_files.file(length=1 << 30)),
    ("announces a header", (2**63).to_bytes(8, "little") + b"{}" * 10),
    ("announces a header", safetensors_files.file(b"{" + b" " * (1 << 20) + b"}")),
    ("no JSON object", safetensors_files.file(b'["a"]')),
    ("no JSON object", safetensors_files.file(b" {}")),
    ("no JSON object", safetensors_files.file(b'{"a": NaN}')),
    ("no JSON object", safetensors_files.file(b'{"a": 1, "a": 2}')),
    ("no JSON object", safetensors_files.file(b"[" * 5000)),
    ("holds 0 tensors", safetensors_files.file({"__metadata__": {}}, b"")),
    ("holds 10,001 tensors", safetensors_files.file({str(n): safetensors_files.tensor(0, 0, shape=[0]) for n in range(10_001)})),
    ("__metadata__", safetensors_files.file({"__metadata__": {"a": 1}, "a": safetensors_files.tensor(0, 8)}, b"\0" * 8)),
    ("another way", safetensors_files.file({"a": {"dtype": "F32"}})),
    ("another way", safetensors_files.file({"a": 7})),
    ("unknown dtype", safetensors_files.file({"a": safetensors_files.tensor(0, 8, "F99")}, b"\0" * 8)),
    ("no whole numbers", safetensors_files.file({"a": safetensors_files.tensor(0, 8, shape=[-2])}, b"\0" * 8)),
    ("no whole numbers", safetensors_files.file({"a": safetensors_files.tensor(0, 8, shape=[True, 2])}, b"\0" * 8)),
    ("no whole numbers", safetensors_files.file({"a": {**safetensors_files.tensor(0, 8), "data_offsets": [0, 4, 8]}})),
    ("not what its shape needs", safetensors_files.file({"a": safetensors_files.tensor(8, 0)}, b"\0" * 8)),
    ("not what its shape needs", safetensors_files.file({"a": safetensors_files.tensor(0, 8, shape=[2**40, 2**40])}, b"\0" * 8)),
    ("not what its shape needs", safetensors_files.file({"a": safetensors_files.tensor(0, 1, "F4", shape=[1])}, b"\0")),
    ("overlaps", safetensors_files.file({"a": safetensors_files.tensor(0, 8), "b": safetensors_files.tensor(4, 12)}, b"\0" * 12)),
    ("leaves a gap", safetensors_files.file({"a": safetensors_files.tensor(8, 16)}, b"\0" * 16)),
    ("its header describes 16", safetensors_files.file(buffer=b"\0" * 15)),
    ("its header describes 16", safetensors_files.file(buffer=b"\0" * 99)),
]  # fmt: skip


@pytest.mark.parametrize(("said", "content"), BAD_FILES)
def test_a_file_that_is_no_whole_safetensors_is_refused(said: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(weights.BadWeights, match=said):
        weights.look(path)


def test_broken_weights_are_refused_with_the_files_name(app: Flask, alice: User) -> None:
    with pytest.raises(Invalid, match=r"^model\.safetensors holds 15 bytes of tensors"):
        brought(alice, "bad", ("model.safetensors", safetensors_files.file(buffer=b"\0" * 15)))
    assert model_versions.list_for(alice) == []


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.dictionaries(
        st.text(min_size=1, max_size=8), st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=6
    )
)
def test_whatever_the_library_writes_is_taken(
    shapes: dict[str, list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    numpy = pytest.importorskip("numpy")
    from safetensors.numpy import save_file

    shapes.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("written") / "model.safetensors"
    save_file(
        {name: numpy.zeros(shape, dtype="float16") for name, shape in shapes.items()} or {"a": numpy.zeros(1)}, path
    )
    assert weights.look(path).tensors == max(1, len(shapes))


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read_like_the_library_reads_it(
    place: int, byte: int, tmp_path_factory: Any
) -> None:
    pytest.importorskip("numpy")
    from safetensors import safe_open

    content = bytearray(safetensors_files.file())
    content[place % len(content)] = byte
    path = tmp_path_factory.mktemp("changed") / "model.safetensors"
    path.write_bytes(content)
    try:
        weights.look(path)
    except weights.BadWeights:
        return
    with safe_open(path, "numpy") as opened:  # what we take, the library opens
        assert list(opened.keys())


def test_the_migration_keeps_the_files_of_models_there_and_back(tmp_path: Path, redis_url: str) -> None:
    app = create_app(
        Settings.from_env({"VAR_DIR": str(tmp_path), "REDIS_URL": redis_url, "SECRET_KEY": "only for tests"})
    )
    with app.app_context():
        upgrade(directory=str(ROOT / "migrations"))
        from services import catalogues, price_list

        price_list.install(catalogues.DEFAULT)
        owner = accounts.sign_up("carol@example.com", "carol", PASSWORD)
        job = training_jobs.create(on_plan(owner, "basic"), order(make_dataset(owner)))
        made = model_versions.keeping.add_version(owner.id, "made", [], job_id=job.id, recipe="language", method="full", base_name="yard-tiny", details={})  # fmt: skip
        db.session.add(ModelFile(model_version_id=made.id, name="a", bytes=1, sha256="0" * 64, storage_key="k"))
        db.session.commit()
        before = made.id
        brought(owner, "brought")
        db.session.remove()
        downgrade(directory=str(ROOT / "migrations"), revision="0002")
        upgrade(directory=str(ROOT / "migrations"))
        assert [(file.model_version_id, file.name) for file in db.session.scalars(select(ModelFile))] == [(before, "a")]
        assert [version.id for version in db.session.scalars(select(ModelVersion))] == [before]
        db.session.remove()
        db.engine.dispose()
