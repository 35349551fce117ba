"""Gradio's `Blocks`, which checks what a call gives before any component reads it, so that it can say what is wrong."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import BaseRoute

from background_remover.monitoring import Watch
from background_remover.page.bodies import MAX_FILES, TOO_MANY
from background_remover.page.components import PhotoInput, PhotosInput
from background_remover.page.files import NOT_HERE
from background_remover.page.guard import Guard, client_address
from background_remover.page.requests import expect, expect_no_more

caller: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="")  # the address of a call in hand

LARGEST = sys.float_info.max  # JSON's integers go further, beyond what becomes a float
FETCHING = 120.0  # seconds for all URLs of a call
UNREADABLE = "What was sent can't be read: see the API's description for its parameters."


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def is_file(value: Any) -> bool:
    """Whether it names a file as Gradio does."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), str | None) for name in ("path", "url", "orig_name", "mime_type"))
        and bool(value.get("path") or value.get("url"))
    )


def is_choice(block: gr.Dropdown, value: Any) -> bool:
    return isinstance(value, str) and value in [choice for _, choice in block.choices]


# For each component of an endpoint: whether a value is one of it, and how that is called.
KINDS: dict[type, tuple[Callable[[Any, Any], bool], str]] = {
    PhotoInput: (lambda _, value: is_file(value), "a file: upload it first, or give a URL"),
    PhotosInput: (
        lambda _, value: isinstance(value, list) and all(map(is_file, value)),
        "a list of files: upload them first",
    ),
    gr.Number: (lambda _, value: is_number(value), "a number"),
    gr.Checkbox: (lambda _, value: isinstance(value, bool), "true or false"),
    gr.Textbox: (lambda _, value: isinstance(value, str), "a text"),
    gr.Dropdown: (is_choice, "one of its choices"),
}


def check_parameters(name: str, blocks: list[Any], values: list[Any]) -> None:
    """Raises gr.Error, which names the parameter, if they are too few or many, or one is of another kind."""
    labels = [str(block.label) for block in blocks]
    if len(values) != len(blocks):
        sentence = f"'{name}' takes {len(blocks)} parameters, {', '.join(labels)}: give a value for each."
        raise gr.Error(sentence, print_exception=False)
    for block, label, value in zip(blocks, labels, values, strict=True):
        fits, what = KINDS.get(type(block), (lambda *_: True, ""))
        if value is not None and not fits(block, value):
            raise gr.Error(f"The parameter '{label}' is {what}.", print_exception=False)


def with_defaults(handler: Callable[..., Any], values: list[Any]) -> list[Any]:
    """The values of a call, with the defaults of those that are missing at its end, if all of these have one.

    So that who gives all of them in a row need not give those that an endpoint was given later.
    """
    missing = [parameter.default for parameter in [*inspect.signature(handler).parameters.values()][len(values) :]]
    return values if inspect.Parameter.empty in missing else [*values, *missing]


def count_files(value: Any) -> int:
    """How many files there are in what JSON can hold, to whatever depth Gradio looks for them."""
    count, values = 0, [value]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            count += is_file(value)
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(value)
    return count


class CheckedBlocks(gr.Blocks):
    """The page, behind `Guard`, whose endpoints say in one sentence which parameter is wrong."""

    more_routes: Sequence[BaseRoute] = ()  # of the same server

    def launch(self, *args: Any, app_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """Gradio's, with the guard before all routes, and what is watched before that, whoever launches it."""
        given = app_kwargs or {}
        middleware = [
            Middleware(Watch, address=lambda scope: client_address(Request(scope))),
            Middleware(Guard, expect=expect),
            *given.get("middleware", ()),
        ]
        routes = [*self.more_routes, *given.get("routes", ())]
        return super().launch(*args, app_kwargs=given | {"middleware": middleware, "routes": routes}, **kwargs)

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What comes of a call."""
        request = kwargs.get("request")
        caller.set(client_address(getattr(request, "request", request)))
        outcome: dict[str, Any] = await super().process_api(*args, **kwargs)
        return outcome

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """The handler's arguments."""
        try:
            return await self._preprocess(block_fn, inputs, state, explicit_call)
        except BaseException:
            expect_no_more(str(block_fn.api_name), caller.get())
            raise

    async def _preprocess(self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool) -> list[Any]:
        if block_fn.api_visibility == "public":
            if len(inputs) < len(block_fn.inputs):
                inputs = with_defaults(block_fn.fn, inputs)
            check_parameters(block_fn.api_name, block_fn.inputs, inputs)
        if count_files(inputs) > MAX_FILES + 1:  # and a background image
            raise gr.Error(TOO_MANY, print_exception=False)
        try:
            async with asyncio.timeout(FETCHING):
                arguments: list[Any] = await super().preprocess_data(block_fn, inputs, state, explicit_call)
            return arguments
        except gr.Error:
            raise
        except TimeoutError:
            raise gr.Error("Fetching these photos takes too long: send them as files.", print_exception=False) from None
        except gr.exceptions.InvalidPathError:
            raise gr.Error(NOT_HERE, print_exception=False) from None
        except Exception:
            raise gr.Error(UNREADABLE, print_exception=False) from None
