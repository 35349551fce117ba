"""Gradio's components made to fit: inputs that open nothing by themselves, and errors in one sentence.

They are subclasses with `is_template`, so that Gradio's page draws them as what they derive from, the API names them
so, and a component that Gradio builds anew for a visitor keeps its class. They have no constructor of their own, from
whose signature Gradio would build them; the functions below make them with what all of ours have in common.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.data_classes import ImageData, ListFiles

from background_remover.page.files import Upload, file_store
from background_remover.photos import read_data_url
from utilities import PhotoError

logger = logging.getLogger(__name__)

THEME = gr.themes.Default(
    primary_hue="emerald", secondary_hue="emerald", neutral_hue="zinc", font="system-ui", font_mono="monospace"
).set(
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    block_label_text_color="*neutral_600",
    block_info_text_color="*neutral_600",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
    link_text_color="*primary_700",
)


# --- errors ---


@contextlib.contextmanager
def plain_errors(name: str) -> Iterator[None]:
    """Tell the visitor what is wrong in one sentence; what is our fault goes to the log alone."""
    try:
        yield
    except PhotoError as error:
        raise gr.Error(str(error), print_exception=False) from None
    except Exception:
        logger.exception("%s failed", name)
        message = "Something went wrong here: try again, or try another photo."
        raise gr.Error(message, print_exception=False) from None


def plainly(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler, or one that yields, with `plain_errors`; its files stay while it runs."""

    @functools.wraps(handler)
    def answer(*inputs: Any) -> Any:
        with plain_errors(handler.__name__), file_store().request(*inputs):
            return handler(*inputs)

    @functools.wraps(handler)
    def answer_in_turn(*inputs: Any) -> Any:
        with plain_errors(handler.__name__), file_store().request(*inputs):
            yield from handler(*inputs)

    return answer_in_turn if inspect.isgeneratorfunction(handler) else answer


def by_name(handler: Callable[..., Any], components: Mapping[str, Component]) -> Callable[..., Any]:
    """A handler that gives, or yields, values by the names of components; those without one stay as they are."""

    def to_components(values: Mapping[str, Any]) -> Any:
        return {components[name]: value for name, value in values.items()} or gr.skip()

    @functools.wraps(handler)
    def answer(*inputs: Any) -> Any:
        return to_components(handler(*inputs))

    @functools.wraps(handler)
    def answer_in_turn(*inputs: Any) -> Any:
        yield from map(to_components, handler(*inputs))

    return answer_in_turn if inspect.isgeneratorfunction(handler) else answer


# --- inputs: what a client names is only ever a file that was uploaded, see `FileStore.admit` ---


class PhotoInput(gr.Image):
    """Hands the upload over as it is: `photos.open_photo` decides what is a photo."""

    is_template = True

    def preprocess(self, payload: ImageData | None) -> Upload | None:  # type: ignore[override]
        """The upload's path, or its bytes where a client sent a data: URL."""
        if payload is None:
            return None
        with plain_errors("an upload"):
            if payload.url and payload.url.startswith("data:"):
                return read_data_url(payload.url)
            return file_store().admit(payload.path) if payload.path else None


class PhotosInput(gr.File):
    """Hands the paths of several uploads over."""

    is_template = True

    def preprocess(self, payload: ListFiles | None) -> list[str]:  # type: ignore[override]
        """The uploads' paths."""
        return admit_all(payload)


class FolderInput(gr.UploadButton):
    """The same for the files of a folder."""

    is_template = True

    def preprocess(self, payload: ListFiles | None) -> list[str]:  # type: ignore[override]
        """The uploads' paths."""
        return admit_all(payload)


def admit_all(payload: ListFiles | None) -> list[str]:
    """The paths of several uploads. Raises gr.Error if one is none."""
    with plain_errors("an upload"):
        return [file_store().admit(file.path) for file in payload or ()]


def photo_input(**kwargs: Any) -> PhotoInput:
    """An input for one photo, in any format."""
    return PhotoInput(type="filepath", image_mode=None, buttons=["fullscreen"], **kwargs)


def photos_input(**kwargs: Any) -> PhotosInput:
    """An input for several photos."""
    return PhotosInput(file_count="multiple", **kwargs)


def folder_input(text: str, **kwargs: Any) -> FolderInput:
    """A button that lets a folder be chosen."""
    return FolderInput(text, file_count="directory", **kwargs)


# --- outputs ---


def picture(label: str, **kwargs: Any) -> gr.Image:
    """An image that is shown and downloaded exactly as it was written."""
    return gr.Image(
        label=label,
        type="filepath",
        image_mode=None,
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        **kwargs,
    )


def status_line(name: str) -> gr.HTML:
    """A line that screen readers read out when it changes."""
    return gr.HTML("", html_template='<div class="say" role="status">${value}</div>', elem_id=name)
