"""Which parameter of a call is wrong, whatever it is that JSON can hold."""

import asyncio
import contextlib
import json
from types import SimpleNamespace

import gradio as gr
import pytest
from helpers import run_async

from background_remover.page import blocks as module
from background_remover.page import bodies
from background_remover.page.blocks import check_parameters, count_files
from background_remover.page.bodies import MAX_FILES, TOO_MANY
from background_remover.page.components import photo_input, photos_input
from background_remover.scheduler import BusyError

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


# --- what is fetched for a call ---


def test_few_photos_are_fetched_at_once_for_an_address_and_in_all():
    """Each takes up to half a minute, and room for it, before the call has a job that counts."""
    of_one, of_all = bodies.FETCHES
    with contextlib.ExitStack() as stack:
        for number in range(of_all):
            stack.enter_context(bodies.fetching(f"address {number // of_one}"))
            if number == of_one - 1:
                with pytest.raises(BusyError, match="try again in"), bodies.fetching("address 0"):
                    pass
        with pytest.raises(BusyError), bodies.fetching("another"):
            pass
    with bodies.fetching("another"):
        pass
    assert not bodies.fetches


@pytest.fixture
def call(monkeypatch):
    """What is said of a call of an endpoint that takes photos, and how often its place was given back."""
    given_back = []
    monkeypatch.setattr(module, "expect_no_more", lambda *names: given_back.append(names))
    demo = object.__new__(module.CheckedBlocks)  # one that was never built, of which only this is asked
    inputs = [photos_input(label="photos"), gr.Textbox(label="text")]
    function = SimpleNamespace(api_visibility="public", api_name="batch", inputs=inputs)

    def say(value: object) -> str:
        with pytest.raises(gr.Error) as told:
            run_async(demo.preprocess_data(function, [value, "a"], None))
        assert len(given_back) == 1
        return told.value.message

    return say


def test_a_call_with_too_many_files_is_refused_before_one_is_fetched(call, monkeypatch):
    monkeypatch.setattr(gr.Blocks, "preprocess_data", None)
    assert call([{"url": "https://a.example"}] * (MAX_FILES + 2)) == TOO_MANY


def test_a_call_whose_photos_take_long_to_fetch_is_given_up(call, monkeypatch):
    async def fetch(*_: object) -> None:
        await asyncio.sleep(10)

    monkeypatch.setattr(module, "FETCHING", 0.05)
    monkeypatch.setattr(gr.Blocks, "preprocess_data", fetch)
    assert "takes too long" in call([FILE])
