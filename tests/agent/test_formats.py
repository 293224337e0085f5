"""Data files of members: every format in every container, and every way in which a file can be bad."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agent.formats import BadRow, DataError, MappingNeeded, Reading, Row, containers, read, strict_json

Store = Callable[[bytes | str, str], Path]

PAIR = '{"prompt": "What is 2 + 2?", "completion": "4"}\n'
CHAT = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("data")

    def write(content: bytes | str, name: str) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def rows_of(reading: Reading) -> list[Any]:
    """The contents of all rows: messages or text."""
    return [row.messages if row.text is None else row.text for row in reading]


def bad_of(path: Path, mapping: dict[str, str] | None = None) -> list[BadRow]:
    reading = read(path, mapping)
    list(reading)
    return reading.bad_rows


def reason(store: Store, row: str | bytes, good: str = PAIR) -> str:
    """The reason that a row in the second line of a JSONL file is bad, with good rows around it."""
    row = row.encode() if isinstance(row, str) else row
    bad = bad_of(store(good.encode() + row + b"\n" + good.encode(), "rows.jsonl"))
    assert [found.line for found in bad] == [2]
    return bad[0].reason


def chat_reason(store: Store, *messages: Any, **more: Any) -> str:
    return reason(store, json.dumps({"messages": list(messages), **more}), json.dumps({"messages": CHAT}) + "\n")


def as_csv(header: list[str], rows: list[list[str]], **options: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, **options)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


# Formats


def test_chat_row_keeps_roles_contents_and_weights(store: Store) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello", "weight": 0},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Goodbye", "weight": 1},
    ]
    reading = read(store(json.dumps({"messages": messages}), "chat.jsonl"))
    assert (reading.format, reading.container, reading.columns) == ("chat", "jsonl", ["messages"])
    assert list(reading) == [Row(1, messages=messages)]


def test_developer_is_system_and_text_parts_are_joined(store: Store) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "2 + 2?"}]
    messages = [{"role": "developer", "content": "Add."}, {"role": "user", "content": parts}, CHAT[1]]
    reading = read(store(json.dumps({"messages": messages}), "chat.jsonl"))
    assert rows_of(reading) == [[{"role": "system", "content": "Add."}, *CHAT]]


def test_tool_calls_and_tool_definitions_become_text_with_nothing_lost(store: Store) -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}]
    calls = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"at": "Ulm"}'}}]
    row = {
        "tools": tools,
        "messages": [
            {"role": "user", "content": "Weather in Ulm?"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            {"role": "assistant", "content": "It is sunny."},
        ],
    }
    [messages] = rows_of(read(store(json.dumps(row), "chat.jsonl")))
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert json.loads(messages[0]["content"].removeprefix("Tools: ")) == tools
    assert json.loads(messages[2]["content"]) == {"tool_calls": calls}


def test_prompt_completion_as_texts(store: Store) -> None:
    assert rows_of(read(store(PAIR, "pairs.jsonl"))) == [CHAT]


def test_nothing_of_a_conversational_prompt_is_learned(store: Store) -> None:
    row = {
        "prompt": [*CHAT, {"role": "user", "content": "And 3 + 3?"}],
        "completion": [{"role": "assistant", "content": "6"}],
    }
    [messages] = rows_of(read(store(json.dumps(row), "pairs.jsonl")))
    assert messages == [
        CHAT[0],
        {**CHAT[1], "weight": 0},
        {"role": "user", "content": "And 3 + 3?"},
        {"role": "assistant", "content": "6"},
    ]


def test_alpaca_with_input_system_and_history(store: Store) -> None:
    row = {
        "instruction": "Translate.",
        "input": "Haus",
        "output": "house",
        "system": "German to English.",
        "history": [["Translate. Hund", "dog"]],
        "text": "ignored",
    }
    reading = read(store(json.dumps(row), "alpaca.jsonl"))
    assert reading.format == "alpaca"
    assert [(m["role"], m["content"]) for m in rows_of(reading)[0]] == [
        ("system", "German to English."),
        ("user", "Translate. Hund"),
        ("assistant", "dog"),
        ("user", "Translate.\nHaus"),
        ("assistant", "house"),
    ]


def test_sharegpt_with_function_calls(store: Store) -> None:
    turns = [
        ("human", "Weather?"),
        ("function_call", '{"name": "weather"}'),
        ("observation", "sunny"),
        ("gpt", "Sunny."),
    ]
    row = {"conversations": [{"from": who, "value": said} for who, said in turns], "system": "Be kind."}
    reading = read(store(json.dumps(row), "share.jsonl"))
    assert reading.format == "sharegpt"
    assert [message["role"] for message in rows_of(reading)[0]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


def test_sharegpt_takes_user_and_assistant_as_names_too(store: Store) -> None:
    row = {"conversations": [{"role": m["role"], "content": m["content"]} for m in CHAT]}
    assert rows_of(read(store(json.dumps(row), "share.jsonl"))) == [CHAT]


def test_text_column(store: Store) -> None:
    reading = read(store('{"text": "Once upon a time."}\n', "story.jsonl"))
    assert (reading.format, rows_of(reading)) == ("text", ["Once upon a time."])


def test_the_format_is_that_of_most_rows(store: Store) -> None:
    reading = read(store('{"text": "stray"}\n' + PAIR * 3, "mixed.jsonl"))
    assert (reading.format, len(list(reading)), reading.bad_count) == ("prompt_completion", 3, 1)
    assert reading.bad_rows[0] == BadRow(1, 'The field "prompt" is missing. The row has: "text".')


# Containers


def test_json_array_and_data_object_keep_the_lines_of_the_file(store: Store) -> None:
    pretty = json.dumps([json.loads(PAIR)] * 2, indent=2)
    assert [row.line for row in read(store(pretty, "a.json"))] == [2, 6]
    wrapped = json.dumps({"version": 1, "data": [json.loads(PAIR)] * 2, "note": {}}, indent=2)
    reading = read(store(wrapped, "b.json"))
    assert ([row.line for row in reading], reading.container) == ([4, 8], "json")


def test_json_objects_written_one_after_another(store: Store) -> None:
    assert [row.line for row in read(store(json.dumps(json.loads(PAIR), indent=1) * 2, "jq.json"))] == [1, 4]


@pytest.mark.parametrize(
    ("content", "name", "container"),
    [
        (PAIR * 2, "rows.json", "jsonl"),
        (PAIR * 2, "rows.txt", "jsonl"),
        (PAIR, "rows", "jsonl"),
        (f"[{PAIR.strip()}, {PAIR.strip()}]", "rows.jsonl", "json"),
        ('{\n"data": [' + PAIR + "]}", "rows.jsonl", "json"),
        ("prompt,completion\na,b\n", "rows", "csv"),
        ("Hello, world\nand so on, too\n", "rows", "txt"),
        ("prompt\tcompletion\na\tb\n", "rows.tsv", "csv"),
    ],
)
def test_container_by_suffix_unless_the_content_plainly_says_otherwise(
    store: Store, content: str, name: str, container: str
) -> None:
    reading = read(store(content, name))
    assert (reading.container, reading.bad_count) == (container, 0)
    assert list(reading)


def test_original_name_decides_when_the_file_is_stored_under_another(store: Store) -> None:
    path = store("text\nA line.\n", "5f3a")
    assert read(path, name="lines.csv").container == "csv"
    assert read(path, name="lines.txt").container == "txt"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_with_quoted_line_breaks_names_physical_lines(store: Store, delimiter: str) -> None:
    cells = [["a", "first\nsecond"], ['say "hi"', "x, y; z"], ["c", "d"]]
    content = "\ufeff" + as_csv(["prompt", "completion"], cells, delimiter=delimiter)
    reading = read(store(content, "cells.csv"))
    rows = list(reading)
    assert [row.line for row in rows] == [2, 4, 5]
    assert [[m["content"] for m in row.messages or []] for row in rows] == cells


def test_csv_header_is_read_in_any_case_and_an_index_column_is_no_trouble(store: Store) -> None:
    reading = read(store("sep=;\n;Prompt; Completion\n0;a;b\n", "excel.csv"))
    assert reading.columns == ["column 1", "Prompt", "Completion"]
    assert [(row.line, row.messages) for row in reading] == [
        (3, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    ]


def test_csv_cell_may_hold_messages_as_json(store: Store) -> None:
    assert rows_of(read(store(as_csv(["messages"], [[json.dumps(CHAT)]]), "chat.csv"))) == [CHAT]


def test_csv_forgotten_quotation_mark_costs_one_row(store: Store) -> None:
    reading = read(store('prompt,completion\na,b\nc,"d\ne,f\ng,h\n,\n', "cells.csv"))
    assert [row.line for row in reading] == [2, 4, 5]
    assert [bad.line for bad in reading.bad_rows] == [3]
    assert "never closed" in reading.bad_rows[0].reason


def test_csv_bad_rows(store: Store) -> None:
    content = b'prompt,completion\na,b\nc\nd,e,f\n"g"h,i\nj,\xe9\n,k\nl,m\n'
    reading = read(store(content, "cells.csv"))
    assert [row.line for row in reading] == [2, 8]
    reasons = {bad.line: bad.reason for bad in reading.bad_rows}
    assert list(reasons) == [3, 4, 5, 6, 7]
    assert "Cells in the row: 1, in the header row: 2." in reasons[3]
    assert "after its closing quotation mark" in reasons[5]
    assert reasons[6].startswith("Byte 3 of the line (0xe9) is not UTF-8 text.")
    assert reasons[7] == 'The field "prompt" is empty. Fill it, or leave the row out.'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("prompt,prompt\na,b\n", 'names "prompt" more than once'),
        (",".join(f"c{n}" for n in range(1001)) + "\n", "1,001 columns"),
        (b"prompt,r\xe9ponse\na,b\n", "The header row: Byte 9"),
        ("prompt,completion\n", "holds no rows"),
    ],
)
def test_csv_unusable_header(store: Store, content: str | bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read(store(content, "cells.csv"))


def test_plain_text_groups_whole_paragraphs(store: Store) -> None:
    paragraphs = [f"Paragraph {number}. " + "word " * 120 + "end." for number in range(6)]
    rows = list(read(store("\n\n".join(paragraphs), "book.txt")))
    assert [row.text for row in rows] == ["\n\n".join(paragraphs[:3]), "\n\n".join(paragraphs[3:])]
    assert [row.line for row in rows] == [1, 7]


def test_plain_text_cuts_a_long_paragraph_behind_a_sentence(store: Store) -> None:
    sentence = "This sentence has some forty characters. "
    rows = list(read(store((sentence * 60 + "\n") * 2, "book.txt")))
    assert all(len(row.text or "") <= 2000 and (row.text or "").endswith("characters.") for row in rows)
    assert [row.line for row in rows] == [1, 1, 2]


def test_plain_text_with_a_broken_line_keeps_the_others(store: Store) -> None:
    reading = read(store(b"One.\n\nTw\xff.\n\nThree.\nFo\x00ur.\n", "book.txt"))
    assert rows_of(reading) == ["One.\n\nThree."]
    assert [(bad.line, bad.reason[:16]) for bad in reading.bad_rows] == [
        (3, "Byte 3 of the li"),
        (6, "The line holds a"),
    ]


# Mapping


def test_unknown_columns_need_a_mapping(store: Store) -> None:
    row = json.dumps({"question": "x" * 300, "answer": ["y"]}) + "\n"
    with pytest.raises(MappingNeeded) as needed:
        read(store(row * 7, "school.jsonl"))
    error = needed.value
    assert error.columns == ["question", "answer"]
    assert error.sample == [{"question": "x" * 200 + "…", "answer": '["y"]'}] * 5
    assert error.suggestion == {"prompt": "question", "completion": "answer"}
    assert error.formats["prompt_completion"]["required"] == ["prompt", "completion"]
    assert pickle.loads(pickle.dumps(error)).columns == error.columns


@pytest.mark.parametrize(
    ("columns", "suggestion"),
    [
        (
            ["instruction", "context", "response"],
            {"instruction": "instruction", "input": "context", "output": "response"},
        ),
        (["id", "input", "output"], {"prompt": "input", "completion": "output"}),
        (["turns", "id"], {"messages": "turns"}),
        (["title", "Body"], {"text": "Body"}),
        (["x", "y"], {}),
    ],
)
def test_suggested_mapping(store: Store, columns: list[str], suggestion: dict[str, str]) -> None:
    with pytest.raises(MappingNeeded) as needed:
        read(store(as_csv(columns, [["1"] * len(columns)]), "cells.csv"))
    assert needed.value.suggestion == suggestion


def test_mapping_names_the_columns(store: Store) -> None:
    path = store('{"question": "What is 2 + 2?", "answer": "4"}\n', "school.jsonl")
    reading = read(path, {"prompt": "question", "completion": "answer"})
    assert (reading.format, rows_of(reading)) == ("prompt_completion", [CHAT])
    assert rows_of(read(path, {"instruction": "question", "output": "answer"})) == [CHAT]
    assert rows_of(read(path, {"text": "question"})) == ["What is 2 + 2?"]


def test_mapping_of_a_column_that_appears_late(store: Store) -> None:
    late = json.dumps({"question": "q", "answer": "a", "role": "Be kind."}) + "\n"
    path = store('{"question": "q", "answer": "a"}\n' * 150 + late, "school.jsonl")
    rows = rows_of(read(path, {"prompt": "question", "completion": "answer", "system": "role"}))
    assert [len(messages) for messages in rows] == [2] * 150 + [3]


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        (
            {"prompt": "question", "completion": "reply"},
            '"reply", which is not in the data. The columns are: "question", "answer"',
        ),
        ({"ask": "question"}, 'the target "ask", which does not exist. Targets are: messages'),
        ({"prompt": "question"}, '"prompt" needs "completion" as well'),
        ({"prompt": "question", "text": "answer"}, "do not make one format together"),
        ({"prompt": "question", "completion": "question"}, "more than one target"),
        ({"prompt": 3}, "gives no column"),
        (["question"], "must say for each target"),
    ],
)
def test_mapping_that_cannot_be_applied(store: Store, mapping: Any, says: str) -> None:
    with pytest.raises(DataError) as error:
        read(store('{"question": "q", "answer": "a"}\n', "school.jsonl"), mapping)
    assert says in error.value.message
    assert not isinstance(error.value, MappingNeeded)


# Bad rows


def test_one_broken_line_in_the_middle_of_a_long_file(store: Store) -> None:
    lines = [PAIR] * 8000
    lines[6173] = '{"prompt": "What is 2 + 2?", "completion": "4}\n'
    reading = read(store("".join(lines), "long.jsonl"))
    rows = list(reading)
    assert (len(rows), reading.row_count, reading.bad_count) == (7999, 7999, 1)
    [bad] = reading.bad_rows
    assert bad.line == 6174
    assert bad.reason.startswith("Not JSON at column 44: the text opened there is never closed")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{'prompt': 'a'}", "Not JSON at column 2: a key in double quotes belongs there"),
        (
            '{"prompt": "a\tb", "completion": "c"}',
            r"Not JSON at column 14: write line breaks and tabs inside a string as \n",
        ),
        ('{"prompt": "C:\\dir", "completion": "c"}', "Not JSON at column 15: write a backslash"),
        ('{"prompt": "a", "completion": "b"} {}', "Not JSON at column 36: there is more after the end"),
        ('{"prompt": "a", "completion":', "breaks off there"),
        ('["a", "b"]', "The row is a list, not an object"),
        ("null", "The row is null"),
        ("{}", 'The field "prompt" is missing. The row has: no fields.'),
        ('{"prompt": "a"}', 'The field "completion" is missing. The row has: "prompt".'),
        ('{"prompt": "a", "completion": " "}', 'The field "completion" is empty'),
        (
            '{"prompt": "a", "completion": 4}',
            'The field "completion" is a number. It must be text, in quotes.',
        ),
        ('{"prompt": "a", "completion": null}', 'The field "completion" is null'),
        ('{"prompt": "a", "prompt": "b", "completion": "c"}', 'The key "prompt" is given twice'),
        ('{"prompt": "a", "completion": "b", "score": NaN}', "NaN is not a JSON value"),
        ('{"prompt": "a", "completion": "b", "score": 1e999}', "too large"),
        ('{"prompt": "a", "completion": "b", "id": ' + "9" * 5000 + "}", "more than 1,000 digits"),
        ('{"prompt": "a", "completion": "\\ud83d"}', "holds half a surrogate pair (\\ud83d)"),
        ('{"prompt": "a\\u0000", "completion": "b"}', "holds a NUL character"),
        (b'{"prompt": "a", "completion": "caf\xe9"}', "Byte 35 of the line (0xe9) is not UTF-8 text"),
        ('{"prompt": "a", "completion": ' + "[" * 100 + "]" * 100 + "}", "nested more than 64 deep"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_bad_row_of_jsonl(store: Store, row: str | bytes, says: str) -> None:
    assert says in reason(store, row)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "is an empty list"),
        (["hi"], "Message 1 is text, not an object"),
        ([{"content": "hi"}], "Message 1 has no role"),
        ([{"role": "bot", "content": "hi"}], 'Message 1 has the unknown role "bot". Use system, user'),
        ([CHAT[0], {"role": "assistant"}], 'Message 2: "content" is missing'),
        ([CHAT[0], {"role": "assistant", "content": 4}], '"content" is a number'),
        (
            [CHAT[0], {"role": "assistant", "content": [{"type": "image_url"}]}],
            'a part of the type "image_url"',
        ),
        ([CHAT[0], {**CHAT[1], "weight": 2}], "The weight of message 2 is not 0"),
        ([CHAT[0], {**CHAT[1], "weight": True}], "The weight of message 2 is not 0"),
        ([{**CHAT[0], "weight": 1}, CHAT[1]], "is from user and has a weight"),
        ([CHAT[0], {**CHAT[1], "weight": 0}], "Every answer has the weight 0"),
        ([CHAT[0], {**CHAT[1], "content": " "}], "Every message of the assistant is empty"),
        ([{**CHAT[0], "content": ""}, CHAT[1]], "Message 1 is from the user and empty"),
        ([CHAT[0]], "no message from the assistant"),
        ([CHAT[1], CHAT[0], CHAT[1]], "The first message is from assistant"),
        ([{"role": "system", "content": "Hi"}], "no message from the user"),
        ([*CHAT, CHAT[0]], "The last message is from user"),
        ([CHAT[0], {"role": "tool", "content": "4"}, CHAT[1]], "A message from tool follows one from user"),
        ([{"from": "human", "value": "hi"}], "map the column as conversations"),
    ],
)
def test_bad_row_of_chat(store: Store, messages: list[Any], says: str) -> None:
    assert says in chat_reason(store, *messages)


def test_bad_rows_of_alpaca_and_sharegpt(store: Store) -> None:
    alpaca = '{"instruction": "a", "output": "b"}\n'
    assert '"instruction" is empty' in reason(store, '{"instruction": "", "output": "b"}', alpaca)
    with_history = '{"instruction": "a", "output": "b", "history": []}\n'
    odd = '{"instruction": "a", "output": "b", "history": [["q"]]}'
    assert "Entry 1 of the history" in reason(store, odd, with_history)
    good = json.dumps({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}) + "\n"
    for item, says in [
        ({"from": "robot", "value": "a"}, 'unknown role "robot". Use human, gpt'),
        ({"from": "human"}, 'The "value" of message 1 is null'),
        (["human", "a"], "Message 1 is a list"),
    ]:
        assert says in reason(store, json.dumps({"conversations": [item]}), good)
    assert "is text and should be a list written as JSON. Not JSON at column 3" in reason(
        store, json.dumps({"conversations": "[{'from': 'human'}]"}), good
    )


def test_bad_element_of_json_is_one_bad_row(store: Store) -> None:
    rows = ['{"prompt": "a", "completion": "b"}', '{"prompt": "a", "x": NaN}', "7", PAIR.strip()]
    content = "[\n" + ",\n".join(rows) + "]"
    reading = read(store(content, "rows.json"))
    assert [row.line for row in reading] == [2, 5]
    assert [bad.line for bad in reading.bad_rows] == [3, 4]


def test_row_above_the_size_limit_is_bad_and_the_next_one_good(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "ROW_BYTES", 100)
    monkeypatch.setattr(strict_json, "ROW_BYTES", 100)
    long = '{"prompt": "a", "completion": "' + "b" * 100 + '"}\n'
    for name, content in [
        ("rows.jsonl", PAIR + long + PAIR),
        ("rows.csv", "prompt,completion\n" + "a" * 200 + ",b\nc,d\n"),
        ("rows.json", f"[{PAIR},{long},{PAIR}]"),
    ]:
        [bad] = bad_of(store(content, name))
        assert (bad.line, "Split it" in bad.reason) == (2, True), name


def test_stored_bad_rows_are_capped_and_all_are_counted(store: Store) -> None:
    reading = read(store(PAIR + "oops\n" * 1500, "rows.jsonl"))
    assert len(list(reading)) == 1
    assert (reading.bad_count, len(reading.bad_rows)) == (1500, 1000)


def test_reading_twice_gives_the_same(store: Store) -> None:
    reading = read(store(PAIR + "oops\n" + PAIR, "rows.jsonl"))
    assert (list(reading), reading.bad_count) == (list(reading), reading.bad_count)
    assert reading.row_count == 2


# Files that are refused


def a_zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", b"0" * 10_000_000)
    return data.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "The file is empty"),
        (b"\n \r\n\t\n", "only blank lines"),
        (b"\xef\xbb\xbf", "only blank lines"),
        (a_zip(), r"zip archive .* Unpack it .* if it is one\. From Excel or Word, export the data"),
        (gzip.compress(PAIR.encode(), mtime=0), "compressed with gzip.* Unpack it"),
        (b"PAR1\x15\x04\x00\x00\x15PAR1", "a Parquet file.* Convert it to JSONL"),
        (b"%PDF-1.7\n1 0 obj", "a PDF document"),
        (b"MZ\x90\x00\x03\x00\x00\x00", "a Windows program"),
        (b"\x7fELF\x02\x01\x01\x00", "a program"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "a PNG image"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a JPEG image"),
        (struct.pack("<Q", 60) + b'{"__metadata__": {}}', "safetensors"),
        (bytes(range(256)) * 20, "The file is binary"),
        (PAIR.encode("utf-16"), "UTF-16.* Save it as UTF-8"),
        (PAIR.encode("utf-16-le"), "UTF-16.* Save it as UTF-8"),
        (b"<!DOCTYPE html><html><body>Please log in</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (PAIR.replace("\n", "\r").encode() * 3, "old Mac way"),
        (b"{}\n{}\n", "empty objects"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_file_refused_as_a_whole(store: Store, content: bytes, says: str, name: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        read(store(content, name))
    assert error.value.message.endswith(".")


def test_prose_that_begins_like_a_program_is_text(store: Store) -> None:
    assert rows_of(read(store("MZ was a rock band.\n", "story.txt"))) == ["MZ was a rock band."]


def test_no_usable_row_names_the_first_lines(store: Store) -> None:
    with pytest.raises(DataError) as error:
        read(store("\nnope\n" + "{'a': 1}\n" * 4, "rows.jsonl"))
    assert error.value.message.startswith("No row of the file can be used. Line 2: Not JSON at column 1")
    assert "Line 4:" in error.value.message
    assert error.value.message.endswith("The same goes for 2 more.")
    assert (error.value.line, len(error.value.bad_rows)) == (2, 5)


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ('[\n{"text": "a"},\n{"text" "b"}\n]', 3, "line 3, column 9: a colon belongs"),
        ('[{"text": "a"}', 1, "line 1, column 15: it breaks off there"),
        ('[{"text": "a"}]\n]', 2, "line 2, column 1: there is more after the end of the array"),
        ('{"data": [{"text": "a"}], "n" 1}', 1, "column 31: a colon belongs"),
        (b'[{"text": "a"},\n{"text": "\xff"}]', 2, "Line 2: Byte 11 of the line"),
        ("7", 1, "an array of objects belongs there"),
        ("[{}, " + "[" * 100_000 + "]", 1, "nested too deep"),
    ],
)
def test_broken_json_names_line_and_column(store: Store, content: str | bytes, line: int, says: str) -> None:
    with pytest.raises(DataError) as error:
        read(store(content, "rows.json"))
    assert says in error.value.message
    assert error.value.line == line


def test_json_too_large_for_memory_is_to_be_converted(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.write(b"[" + PAIR.encode() + b" " * 100_000)
        file.truncate(containers.JSON_BYTES + 1)
    with pytest.raises(DataError, match=r"512 MiB at most\. Convert it to JSONL"):
        read(path)


def test_path_without_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl", tmp_path / "a\x00b"):
        with pytest.raises(DataError, match=r"no file|no path may hold"):
            read(path)


def test_a_long_file_is_streamed(store: Store) -> None:
    row = json.dumps({"prompt": "q" * 400, "completion": "a" * 400})
    for name, content in [
        ("long.jsonl", (row + "\n") * 10_000),
        ("long.csv", as_csv(["prompt", "completion"], [["q" * 400, "a" * 400]] * 10_000)),
        ("long.txt", "word " * 1_600_000),
    ]:
        path = store(content, name)
        del content
        tracemalloc.start()
        count = sum(1 for _ in read(path))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count >= 4000
        assert peak < 2_000_000, name


# Properties

letters = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\r\t"), max_size=40)
said = letters.filter(lambda text: bool(text.strip()))
exchange = st.tuples(said, said)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    system = [{"role": "system", "content": draw(said)}] if draw(st.booleans()) else []
    turns = draw(st.lists(exchange, min_size=1, max_size=3))
    messages: list[dict[str, Any]] = list(system)
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    if draw(st.booleans()):
        messages[-1]["weight"] = 1
    return messages


@given(
    st.lists(conversations(), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from(["jsonl", "json", "wrapped", "csv"]),
)
@settings(max_examples=150, deadline=None)
def test_conversations_read_back_equal_from_every_container(
    store: Store, written: list[list[dict[str, Any]]], escaped: bool, container: str
) -> None:
    rows = [{"messages": messages} for messages in written]
    if container == "jsonl":
        content = "".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in rows)
    elif container == "csv":
        content = as_csv(["messages"], [[json.dumps(messages, ensure_ascii=escaped)] for messages in written])
    else:
        content = json.dumps({"data": rows} if container == "wrapped" else rows, ensure_ascii=escaped, indent=1)
    reading = read(store(content, f"chat.{container.replace('wrapped', 'json')}"))
    assert rows_of(reading) == written
    assert reading.bad_count == 0


@given(
    st.lists(exchange, min_size=1, max_size=6),
    st.sampled_from(",;\t|"),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=150, deadline=None)
def test_csv_round_trip(store: Store, pairs: list[tuple[str, str]], delimiter: str, quoted: bool, end: str) -> None:
    text = io.StringIO()
    always = quoted or any("\r" in cell for pair in pairs for cell in pair)
    writer = csv.writer(
        text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL if always else csv.QUOTE_MINIMAL
    )
    writer.writerow(["prompt", "completion"])
    writer.writerows(pairs)
    reading = read(store(text.getvalue(), "pairs.csv"))
    found = [(messages[0]["content"], messages[1]["content"]) for messages in rows_of(reading)]
    assert (found, reading.bad_count) == (pairs, 0)


@given(st.lists(st.lists(letters, max_size=4).map("\n".join), max_size=12), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_plain_text_loses_no_character_and_knows_its_lines(store: Store, paragraphs: list[str], times: int) -> None:
    content = "\n\n".join(paragraph * times for paragraph in paragraphs)
    assume(content.strip() and "\r" not in content)
    rows = list(read(store("Title\n\n" + content, "book.txt"), name="book.txt"))
    lines = ("Title\n\n" + content).split("\n")
    assert "".join("".join((row.text or "").split()) for row in rows) == "".join(("Title" + content).split())
    for row in rows:
        assert len(row.text or "") <= 2000
        assert (row.text or "").split("\n")[0].strip() in lines[row.line - 1]


marks = [bytes([mark]) for mark in b'{}[]"\\:,; \n\r\x00\xff\xc3']
fragments = [
    b"\r\n",
    b"\xef\xbb\xbf",
    b"NaN",
    b"1e999",
    b'"\\ud800"',
    b'"data":[',
    b'"text":"a"',
    b'{"text":"a"}',
    b"text\n",
    b"prompt,completion\n",
    b'a,"b',
    b"sep=;\n",
    b"Words and words.",
    b'"messages":[{"role":"user","content":"q"}]',
    PAIR.encode(),
]
pieces = st.sampled_from(marks + fragments)
anything = st.one_of(st.binary(max_size=300), st.lists(pieces, max_size=40).map(b"".join))


@given(anything, st.sampled_from(["jsonl", "json", "csv", "tsv", "txt", "bin"]), st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_bytes_give_rows_or_a_sentence(store: Store, content: bytes, suffix: str, mapped: bool) -> None:
    path = store(content, f"any.{suffix}")
    try:
        reading = read(path, {"text": "prompt"} if mapped else None)
        rows = list(reading)
    except DataError as error:
        assert error.message.encode()
        return
    assert rows
    assert len(rows) == reading.row_count
    for row in rows:
        assert (row.text is None) != (row.messages is None)
        assert json.dumps(row.messages, ensure_ascii=False).encode()
        assert (row.text or "").encode() is not None
    assert all(bad.reason.encode() and bad.line >= 1 for bad in reading.bad_rows)


line_of_bytes = st.one_of(
    st.just(PAIR.strip().encode()),
    st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b"")),
    st.sampled_from([b"", b"  ", b"{", b"[", b'{"prompt": "a"}', b'{"prompt": "a", "completion": "b"}\r']),
)


@given(st.lists(line_of_bytes, max_size=30), st.booleans())
@settings(max_examples=200, deadline=None)
def test_every_line_of_jsonl_is_a_row_a_bad_row_or_blank(store: Store, lines: list[bytes], closed: bool) -> None:
    lines = [PAIR.strip().encode()] * 40 + lines
    reading = read(store(b"\n".join(lines) + (b"\n" if closed else b""), "rows.jsonl"))
    rows = [row.line for row in reading]
    bad = [row.line for row in reading.bad_rows]
    assert sorted(rows + bad) == [number for number, line in enumerate(lines, start=1) if line.strip()]
    assert (len(rows), len(bad)) == (reading.row_count, reading.bad_count)
