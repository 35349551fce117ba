"""Which parameter of a call is wrong, whatever it is that JSON can hold."""

import json

import gradio as gr
import pytest

from background_remover.page.blocks import check_parameters, count_files
from background_remover.page.components import photo_input, photos_input

FILE = {
    "path": "/a.png",
    "url": None,
    "orig_name": "a.png",
    "mime_type": "image/png",
    "meta": {"_type": "gradio.FileData"},
}


def check(block: object, value: str) -> str:
    """What is said of a value, in JSON, for the only parameter."""
    try:
        check_parameters("edit", [block], [json.loads(value)])
    except gr.Error as error:
        return error.message
    return ""


@pytest.fixture(scope="module")
def blocks() -> dict[str, object]:
    return {
        "photo": photo_input(label="photo"),
        "photos": photos_input(label="photos"),
        "number": gr.Number(label="number"),
        "box": gr.Checkbox(label="box"),
        "text": gr.Textbox(label="text"),
        "choice": gr.Dropdown(["png", "jpg"], label="choice"),
    }


RIGHT = {
    "photo": [json.dumps(FILE), '{"path": "a"}', '{"url": "https://a.example/a.png"}', "null"],
    "photos": ["[]", json.dumps([FILE, FILE]), "null"],
    "number": ["0", "-1.5", "1e300", "null", "9" * 300],
    "box": ["true", "false", "null"],
    "text": ['""', '"a"', '"\\ud800"', "null"],
    "choice": ['"png"', "null"],
}
WRONG = {
    "photo": [
        '"a.png"',
        "7",
        "[]",
        "{}",
        '{"path": 7}',
        '{"path": {"path": "a"}}',
        '{"path": ""}',
        '{"path": "a", "url": []}',
    ],
    "photos": [json.dumps(FILE), "[7]", "[[]]", '["a"]', "[null]", "true"],
    "number": ['"1"', "true", "NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "-" + "9" * 4000, "[]", "{}"],
    "box": ["0", "1", '"true"', "[]"],
    "text": ["7", "true", '["a"]', '{"a": 1}'],
    "choice": ['"gif"', '"PNG"', "0", '["png"]', "{}", "true"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in RIGHT for value in RIGHT[name]])
def test_what_is_right_passes(blocks, name, value):
    assert check(blocks[name], value) == ""


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_what_is_wrong_is_told_with_the_parameters_name(blocks, name, value):
    assert check(blocks[name], value).startswith(f"The parameter '{name}' is ")


@pytest.mark.parametrize("values", [[], [1, 2], [1, 2, 3]])
def test_too_few_and_too_many_are_told_with_what_there_is(blocks, values):
    with pytest.raises(gr.Error) as told:
        check_parameters("edit", [blocks["number"]], values)
    assert told.value.message == "'edit' takes 1 parameters, number: give a value for each."


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ([FILE, 3, None], 1),
        ([[FILE] * 5, FILE], 6),
        ({"a": {"b": [{"url": "https://a.example"}]}}, 1),
        ([{"path": "a", "more": {"path": "b"}}], 2),
        ([[[[]]], {}, "path"], 0),
    ],
)
def test_files_are_counted_wherever_they_are(value, count):
    assert count_files(value) == count
