"""The formats: turns one record into the one form that training knows, or says why it cannot.

Shapes follow OpenAI's fine-tuning messages (chat), TRL's prompt/completion in both its forms, and
LLaMA-Factory's alpaca and sharegpt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from agent.formats.columns import Columns
from agent.formats.rows import BadRow, Message, Record, Row, RowProblem, listed, shown
from agent.formats.strict_json import StrictDecoder, kind, parse_value

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}

Fields = Mapping[str, str]


def to_row(record: Record, columns: Columns) -> Row | BadRow:
    """The record as a row of the given format, or the bad row it makes. Never raises."""
    try:
        if columns.format == "text":
            return Row(record.line, text=_text_row(record.value, columns.fields))
        messages = _READERS[columns.format](record.value, columns.fields)
        _check_conversation(messages)
        return Row(record.line, messages=messages)
    except RowProblem as problem:
        return BadRow(record.line, str(problem))


def _text_row(value: dict[str, Any], fields: Fields) -> str:
    return _required(value, fields, "text")


def _chat(value: dict[str, Any], fields: Fields) -> list[Message]:
    items = _list(value, fields["messages"])
    return _with_system(_tools(value), [_message(item, number) for number, item in enumerate(items, start=1)])


def _prompt_completion(value: dict[str, Any], fields: Fields) -> list[Message]:
    """Prompt and completion as texts, or as lists of messages; of a prompt nothing is learned."""
    prompt = _turns(value, fields, "prompt", "user")
    for message in prompt:
        if message["role"] == "assistant":
            message["weight"] = 0
    messages = prompt + _turns(value, fields, "completion", "assistant")
    return _with_system(_joined(_optional(value, fields, "system"), _tools(value)), messages)


def _turns(value: dict[str, Any], fields: Fields, target: str, role: str) -> list[Message]:
    found = value.get(fields[target])
    if not isinstance(found, list):
        return [{"role": role, "content": _required(value, fields, target)}]
    if not found:
        raise RowProblem(f"The field {shown(fields[target])} is empty. Give it at least one message, or text.")
    return [_message(item, number, f"of {shown(fields[target])} ") for number, item in enumerate(found, start=1)]


def _alpaca(value: dict[str, Any], fields: Fields) -> list[Message]:
    instruction, extra = _optional(value, fields, "instruction"), _optional(value, fields, "input")
    if not instruction.strip() and not extra.strip():
        raise RowProblem(f"The field {shown(fields['instruction'])} is empty. Say there what is asked.")
    messages: list[Message] = []
    for number, pair in enumerate(_history(value, fields), start=1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowProblem(f"Entry {number} of the history is not a pair of texts [question, answer].")
        messages += [_content("user", pair[0], "The history"), _content("assistant", pair[1], "The history")]
    messages.append(_content("user", "\n".join(part for part in (instruction, extra) if part), "The instruction"))
    messages.append({"role": "assistant", "content": _required(value, fields, "output")})
    return _with_system(_optional(value, fields, "system"), messages)


def _history(value: dict[str, Any], fields: Fields) -> list[Any]:
    column = fields.get("history")
    return _list(value, column) if column and value.get(column) not in (None, "", []) else []


def _sharegpt(value: dict[str, Any], fields: Fields) -> list[Message]:
    messages: list[Message] = []
    for number, item in enumerate(_list(value, fields["conversations"]), start=1):
        if not isinstance(item, dict):
            raise RowProblem(f"Message {number} is {kind(item)}, not an object with from and value.")
        sender, said = item.get("from", item.get("role")), item.get("value", item.get("content"))
        role = _SHAREGPT_ROLES.get(sender) if isinstance(sender, str) else None
        if role is None:
            raise RowProblem(
                f"Message {number} {_sender(sender)}. Use human, gpt, system, function_call or observation."
            )
        if not isinstance(said, str):
            raise RowProblem(f'The "value" of message {number} is {kind(said)}. It must be text.')
        messages.append(_content(role, said, f"Message {number}"))
    return _with_system(_joined(_optional(value, fields, "system"), _tools(value)), messages)


_READERS: dict[str, Callable[[dict[str, Any], Fields], list[Message]]] = {
    "chat": _chat,
    "prompt_completion": _prompt_completion,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
}


def _message(item: Any, number: int, where: str = "") -> Message:
    """One message in OpenAI's shape. Calls of tools become text, so that they are learned too."""
    name = f"Message {number} {where}".rstrip()
    if not isinstance(item, dict):
        raise RowProblem(f"{name} is {kind(item)}, not an object with role and content.")
    if "role" not in item and "from" in item:
        raise RowProblem(f'{name} has "from" and "value": map the column as conversations, not as messages.')
    role = _ROLES.get(item["role"]) if isinstance(item.get("role"), str) else None
    if role is None:
        raise RowProblem(f"{name} {_sender(item.get('role'))}. Use system, user, assistant or tool.")
    calls = _calls(item) if role == "assistant" else ""
    said = item.get("content")
    if said is None and role == "assistant":
        said = item.get("refusal") or ("" if calls else None)
    message = _content(role, _joined(_plain(said, name), calls, "\n"), name)
    weight = item.get("weight")
    if weight is not None:
        if role != "assistant":
            raise RowProblem(f"{name} is from {role} and has a weight. Only messages of the assistant may have one.")
        if weight not in (0, 1) or not isinstance(weight, int) or isinstance(weight, bool):
            raise RowProblem(f"The weight of message {number} is not 0 (not learned) or 1 (learned).")
        message["weight"] = weight
    return message


def _calls(item: dict[str, Any]) -> str:
    calls = {key: item[key] for key in ("tool_calls", "function_call") if item.get(key)}
    return json.dumps(calls, ensure_ascii=False) if calls else ""


def _plain(content: Any, name: str) -> str:
    """The content of a message as one text: a text, or a list of parts that are all text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        what = "is missing" if content is None else f"is {kind(content)}"
        raise RowProblem(f'{name}: "content" {what}. It must be text.')
    texts = []
    for part in content:
        shape = part.get("type") if isinstance(part, dict) else None
        text = part.get(shape) if isinstance(part, dict) and shape in ("text", "refusal") else None
        if not isinstance(text, str):
            what = f"a part of the type {shown(shape)}" if isinstance(shape, str) else "a part without text"
            raise RowProblem(f'{name} has {what}. Only parts {{"type": "text", "text": "..."}} can be learned.')
        texts.append(text)
    return "".join(texts)


def _content(role: str, text: str, name: str) -> Message:
    """A message whose text can be stored and encoded. Only a user must have said something."""
    if role == "user" and not text.strip():
        raise RowProblem(f"{name} is from the user and empty. Fill it, or leave the row out.")
    _check_text(text, name)
    return {"role": role, "content": text}


def _check_text(text: str, name: str) -> None:
    if "\x00" in text:
        raise RowProblem(f"{name} holds a NUL character. Remove it.")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowProblem(
                f"{name} holds half a surrogate pair (\\u{ord(text[error.start]):04x}), which is no "
                "character. Write the whole character, or remove it."
            ) from None


def _check_conversation(messages: list[Message]) -> None:
    """Someone asks first, an answer comes last, and there is something to learn."""
    roles = [message["role"] for message in messages]
    asked = next((role for role in roles if role != "system"), "system")
    if asked == "system":
        raise RowProblem(
            "There is no message from the user and none from the assistant. Add a question and its answer."
        )
    if asked != "user":
        raise RowProblem(f"The first message is from {asked}. Start with one from the user (or system, then user).")
    if "assistant" not in roles:
        raise RowProblem("There is no message from the assistant, so there is nothing to learn. Add the answer.")
    if roles[-1] != "assistant":
        raise RowProblem(f"The last message is from {roles[-1]}. End with the answer of the assistant.")
    for before, role in pairwise(roles):
        if role == "tool" and before not in ("assistant", "tool"):
            raise RowProblem(
                f"A message from tool follows one from {before}. It must follow the assistant that called it."
            )
    answers = [message for message in messages if message["role"] == "assistant"]
    if not any(answer["content"].strip() for answer in answers):
        raise RowProblem("Every message of the assistant is empty, so there is nothing to learn. Fill in the answer.")
    if not any(answer["content"].strip() and answer.get("weight", 1) for answer in answers):
        raise RowProblem("Every answer has the weight 0, so there is nothing to learn. Give one the weight 1.")


def _required(value: dict[str, Any], fields: Fields, target: str) -> str:
    column = fields[target]
    if column not in value:
        raise RowProblem(f"The field {shown(column)} is missing. The row has: {listed(value, 8) or 'no fields'}.")
    text = _text(value[column], column)
    if not text.strip():
        raise RowProblem(f"The field {shown(column)} is empty. Fill it, or leave the row out.")
    return text


def _optional(value: dict[str, Any], fields: Fields, target: str) -> str:
    column = fields.get(target)
    found = value.get(column) if column else None
    return "" if column is None or found is None else _text(found, column)


def _text(found: Any, column: str) -> str:
    if not isinstance(found, str):
        raise RowProblem(f"The field {shown(column)} is {kind(found)}. It must be text, in quotes.")
    _check_text(found, f"The field {shown(column)}")
    return found


def _list(value: dict[str, Any], column: str) -> list[Any]:
    """A list of messages; in a cell of CSV it is written as JSON."""
    if column not in value:
        raise RowProblem(f"The field {shown(column)} is missing. The row has: {listed(value, 8) or 'no fields'}.")
    found = value[column]
    if isinstance(found, str):
        try:
            found = parse_value(found, StrictDecoder())
        except RowProblem as problem:
            raise RowProblem(
                f"The field {shown(column)} is text and should be a list written as JSON. {problem}"
            ) from None
    if not isinstance(found, list):
        raise RowProblem(f"The field {shown(column)} is {kind(found)}. It must be a list of messages.")
    if not found:
        raise RowProblem(f"The field {shown(column)} is an empty list. Give it a question and its answer.")
    return found


def _tools(value: dict[str, Any]) -> str:
    """The tools a conversation may call, as text for its system message: a model must see what it calls."""
    tools = value.get("tools") or value.get("functions")
    if not tools:
        return ""
    if not isinstance(tools, str | list | dict):
        raise RowProblem(f'The field "tools" is {kind(tools)}. It must be a list.')
    text = tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False)
    _check_text(text, 'The field "tools"')
    return f"Tools: {text}" if text.strip() not in ("", "[]") else ""


def _with_system(text: str, messages: list[Message]) -> list[Message]:
    """`messages` with `text` in the system message, which is made when there is none."""
    if not text.strip():
        return messages
    if messages and messages[0]["role"] == "system":
        return [{"role": "system", "content": _joined(messages[0]["content"], text)}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _joined(first: str, second: str, between: str = "\n\n") -> str:
    return first + between + second if first and second else first or second


def _sender(role: Any) -> str:
    return f"has the unknown role {shown(role)}" if isinstance(role, str) else "has no role"
