"""From a conversation to text, and which characters of it the model is to learn.

Supervised are the content of assistant messages and the token that ends their turn, nothing else. Where they lie is
not guessed from the text: the template is rendered once with a placeholder in place of each content, which gives
its literal pieces, and every conversation must then be exactly those pieces with the contents between them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from agent.words import beginning

# Content begins on its own line: after a space it would melt into one token with it, and a prompt ending in that
# space would be read differently from what was learnt.
DEFAULT_TEMPLATE = (
    "{{ bos_token if bos_token else '' }}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
_PLACEHOLDER = re.compile("\ue000(\\d+)\ue001")


class UnusableRow(Exception):
    """A row from which nothing can be learnt; the message says why, without quoting the row."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text. `spans` are the supervised characters as (start, end), in order and disjoint."""

    text: str
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class _Skeleton:
    """A template for one sequence of roles: `pieces[k]` stands before the content of message `order[k]`."""

    pieces: list[str]
    order: list[int]


def ensure_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Give a tokenizer without a chat template the plain default one, which is saved with the model.

    Returns whether the default was needed. A tokenizer may carry several named templates; "default" is used.
    """
    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    if tokenizer.chat_template:
        return False
    tokenizer.chat_template = DEFAULT_TEMPLATE
    return True


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the chat template: models with the same hash are prompted the same way."""
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


class Renderer:
    """Renders conversations with one tokenizer's template and remembers the template's pieces per sequence of roles."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._skeletons: dict[tuple[str, ...], _Skeleton] = {}
        first = tokenizer("a").input_ids[0]
        self._beginning = str(tokenizer.bos_token) if first == tokenizer.bos_token_id else ""
        specials = {str(token) for token in tokenizer.all_special_tokens}
        specials |= {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        self._end = re.compile(r"\s*(?:" + "|".join(map(re.escape, sorted(specials, key=len, reverse=True))) + ")")

    def prose(self, text: str) -> Rendered:
        """Plain text is learnt whole and closed by the end token; it begins as the tokenizer begins any text."""
        begun = f"{self._beginning}{text}{self._tokenizer.eos_token}"
        return Rendered(begun, [(len(self._beginning), len(begun))])

    def render(self, messages: list[dict[str, Any]]) -> Rendered:
        """Render messages ({"role", "content", "weight"?}); UnusableRow if nothing in it is, or can be, supervised."""
        if not any(_taught(message) for message in messages):
            raise UnusableRow("no answer of the assistant is to be learnt in it (there is none, or all have weight 0)")
        plain = [{"role": m["role"], "content": m["content"]} for m in messages]
        text = self._apply(plain)
        roles = tuple(m["role"] for m in plain)
        skeleton = self._skeletons.get(roles)
        places = _align(text, skeleton, plain) if skeleton else None
        if skeleton is None or places is None:
            # A template may also print the date, so what was remembered gets one chance to be refreshed.
            skeleton = self._skeletons[roles] = self._skeleton(plain)
            places = _align(text, skeleton, plain)
        if places is None:
            raise UnusableRow("the model's chat template rewrites it, so the answer cannot be told from the prompt")
        return self._supervise(text, messages, skeleton, places)

    def _apply(self, messages: list[dict[str, str]]) -> str:
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False))
        except (TemplateError, TypeError, ValueError, KeyError) as refusal:
            raise UnusableRow(f"the model's chat template refuses it: {beginning(str(refusal), 200)}") from refusal

    def _skeleton(self, messages: list[dict[str, str]]) -> _Skeleton:
        marked = [{**m, "content": f"\ue000{index}\ue001"} for index, m in enumerate(messages)]
        pieces = _PLACEHOLDER.split(self._apply(marked))
        order = [int(index) for index in pieces[1::2]]
        left_out = sorted(set(range(len(messages))) - set(order))
        if left_out:
            role = messages[left_out[0]]["role"]
            raise UnusableRow(f"the model's chat template has no place for the message of the role {role}")
        return _Skeleton(pieces[0::2], order)

    def _supervise(
        self, text: str, messages: list[dict[str, Any]], skeleton: _Skeleton, places: list[tuple[int, int]]
    ) -> Rendered:
        spans = []
        for position, (index, (start, end)) in enumerate(zip(skeleton.order, places, strict=True)):
            if not _taught(messages[index]):
                continue
            closing = self._end.match(skeleton.pieces[position + 1])
            if closing:
                spans.append((start, end + closing.end()))
            elif position == len(places) - 1:
                # A template that closes no turn would give a model that never stops: the end token is added here.
                text = text[:end] + str(self._tokenizer.eos_token)
                spans.append((start, len(text)))
            else:
                spans.append((start, end))
        return Rendered(text, spans)


def _taught(message: dict[str, Any]) -> bool:
    return bool(message["role"] == "assistant" and message.get("weight", 1))


def _align(text: str, skeleton: _Skeleton, messages: list[dict[str, str]]) -> list[tuple[int, int]] | None:
    """Where each content of the skeleton lies in `text`, or None unless every character of `text` is accounted for.

    Templates may trim a content, so its trimmed forms are tried after the content itself.
    """
    if not text.startswith(skeleton.pieces[0]):
        return None
    at = len(skeleton.pieces[0])
    places = []
    for index, following in zip(skeleton.order, skeleton.pieces[1:], strict=True):
        content = messages[index]["content"]
        forms = (content, content.strip(), content.lstrip(), content.rstrip(), content.strip("\n"))
        form = next((form for form in forms if text.startswith(form + following, at)), None)
        if form is None:
            return None
        places.append((at, at + len(form)))
        at += len(form) + len(following)
    return places if at == len(text) else None
