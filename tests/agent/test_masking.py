"""Secrets of the machine never reach the log, in whatever pieces and encodings they are printed."""

from __future__ import annotations

import base64
import json
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.masking import MASK, SecretMasker, secrets_in
from agent.scripts.curves.points import normalised
from agent.words import beginning

TOKEN = "hf_AbCdEf0123456789/+x"
secret_texts = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=8, max_size=40)


def masked(masker: SecretMasker, *pieces: str) -> str:
    return "".join(masker.feed(piece) for piece in pieces) + masker.flush()


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_APIKEY", "db_password", "SSH_PRIVATE", "WANDB_API_KEY", "GITHUB_PAT"],
)
def test_values_of_variables_with_a_secret_name_are_secret(name: str) -> None:
    assert secrets_in({name: TOKEN}) == [TOKEN]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PATH", "/usr/local/bin:/usr/bin"),
        ("PWD", "/home/someone/models"),
        ("MONKEYS", "bananas and more"),
        ("HF_TOKEN", "short"),
    ],
)
def test_other_variables_and_short_values_are_not(name: str, value: str) -> None:
    assert secrets_in({name: value}) == []


def test_the_password_inside_an_address_is_secret() -> None:
    assert secrets_in({"REDIS_URL": "redis://user:verysecret1@localhost:6379/0"}) == ["verysecret1"]


def test_a_secret_is_replaced_wherever_it_stands() -> None:
    masker = SecretMasker([TOKEN])
    assert masked(masker, f"token={TOKEN}, again {TOKEN}\n") == f"token={MASK}, again {MASK}\n"


@given(
    secret=secret_texts,
    before=st.text(max_size=20),
    after=st.text(max_size=20),
    cuts=st.lists(st.integers(0, 80), max_size=6),
)
def test_a_secret_cut_into_pieces_is_replaced_all_the_same(
    secret: str, before: str, after: str, cuts: list[int]
) -> None:
    text = before + secret + after
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[a:b] for a, b in zip(places, places[1:], strict=False)]
    shown = masked(SecretMasker([secret]), *pieces)
    assert secret not in shown or secret in MASK
    assert MASK in shown


@given(text=st.text(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_text_without_secrets_passes_unchanged(text: str, cuts: list[int]) -> None:
    masker = SecretMasker(["\x01never in such a text\x01"])
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    assert masked(masker, *[text[a:b] for a, b in zip(places, places[1:], strict=False)]) == text


@pytest.mark.parametrize(
    "form",
    [
        urllib.parse.quote(TOKEN, safe=""),
        urllib.parse.quote(TOKEN),
        urllib.parse.quote(TOKEN, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
        json.dumps({"t": TOKEN}),
        base64.b64encode(TOKEN.encode()).decode(),
        base64.b64encode(b"u:" + TOKEN.encode()).decode(),
        base64.urlsafe_b64encode(b"x" + TOKEN.encode() + b"tail").decode(),
    ],
)
def test_encoded_secrets_are_replaced_too(form: str) -> None:
    shown = masked(SecretMasker([TOKEN]), form)
    assert MASK in shown
    assert TOKEN[4:12] not in shown


def test_each_line_of_a_long_secret_is_masked_and_short_lines_are_not() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n{\nhkiG9w0BAQEFAASC\n"
    shown = masked(SecretMasker([key]), "MIIEvQIBADANBgkq and hkiG9w0BAQEFAASC and { stays\n")
    assert shown == f"{MASK} and {MASK} and {{ stays\n"


def test_texts_inside_events_are_masked() -> None:
    masker = SecretMasker([TOKEN])
    event = {"kind": "stage", "message": f"using {TOKEN}", "list": [{"deep": TOKEN}], "step": 3}
    assert masker.mask(event) == {"kind": "stage", "message": f"using {MASK}", "list": [{"deep": MASK}], "step": 3}


SPELLED = ["x {} y", "{}", "loss/{}", "loss_{}_mean", "a" * 30 + " {}", "{} loss " + "b" * 60]


@pytest.mark.parametrize("name", SPELLED)
def test_a_secret_in_the_name_of_a_metric_is_replaced_though_names_are_written_small_and_cut(name: str) -> None:
    """`normalised` writes names: in lower case, without some signs, the first 60 characters."""
    for secret in (TOKEN, f"{TOKEN}-{TOKEN}-{TOKEN}", "Sesam öffne dich!", "dG9rZW4vdG9rZW4=+x"):
        names = SecretMasker([secret]).spelled(normalised)
        shown = names.mask_cut(normalised(name.format(secret)), 60)
        assert MASK in shown
        assert normalised(secret)[:8] not in shown


def test_names_without_secrets_pass_unchanged() -> None:
    names = SecretMasker([TOKEN]).spelled(normalised)
    for name in ("loss", "train/loss", "x" * 60, "hf_a", "y" * 56 + "hf_a"):
        assert names.mask_cut(name, 60) == name


def test_a_whole_line_is_never_held_back() -> None:
    masker = SecretMasker([TOKEN])
    assert masker.feed("a line that ends with hf_Ab\n") == "a line that ends with hf_Ab\n"


@given(st.text(st.characters(codec="utf-8", exclude_characters=" "), min_size=1, max_size=40), st.integers(2, 60))
def test_no_word_is_cut_where_a_text_is(word: str, most: int) -> None:
    text = f"lead {word} tail " * 3
    shown = beginning(text, most)
    assert len(shown) <= most
    if shown != text:
        assert shown.endswith("…") and set(shown.removesuffix("…").split()) <= {"lead", "tail", *word.split()}
