"""What is replaced in Gradio because nothing of it can be derived from: all of it is here, read from Gradio 6.31.0."""

from __future__ import annotations

import contextlib
import copy
import re
import secrets
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.mcp
import gradio.queueing
import gradio.route_utils
import gradio.routes
import gradio.state_holder
from gradio import processing_utils
from gradio.utils import error_payload
from starlette.formparsers import MultiPartException
from starlette.templating import jinja2  # type: ignore[attr-defined]

from background_remover.page.blocks import caller
from background_remover.page.bodies import MAX_FILES, fetch_upload
from background_remover.page.mcp_tools import PictureTools
from background_remover.page.requests import WRONG
from utilities import PhotoError

KEPT = 3600  # seconds for which a visitor's state is kept after the page was closed
MAX_FIELD = 10_000  # bytes of a field that is no file


async def download(url: str, cache_dir: str) -> str:  # noqa: ARG001
    """`fetch_upload`: Gradio's own has no limit and lets some private networks be reached.

    Any component downloads the URLs in what a client sends it, one for texts too, so that it is not enough to derive
    from those for photos.
    """
    try:
        return await fetch_upload(url, caller.get())
    except PhotoError as error:
        raise gr.Error(str(error), print_exception=False) from None


class UnguessableUpload(gradio.route_utils.GradioUploadFile):
    """An upload whose folder nobody can guess: by content alone, whoever has the same file could ask for its name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sha.update(secrets.token_bytes(16))


class UploadParser(gradio.route_utils.GradioMultiPartParser):
    """Fewer files, no text in memory, and nothing left of an upload that is cut off."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"max_files": MAX_FILES, "max_fields": 10})

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """A part of a file, or of a field."""
        if self._current_part.file is not None:
            super().on_part_data(data, start, end)
            return
        if len(self._current_part.data) + end - start > MAX_FIELD:
            raise MultiPartException("A field is too long: send photos as files.")
        self._current_part.data += data[start:end]

    async def parse(self) -> Any:
        """The form."""
        try:
            return await super().parse()
        except BaseException:
            for file in self._files_to_close_on_error:
                file.close()
                with contextlib.suppress(OSError):
                    Path(file.name).unlink(missing_ok=True)
            raise


class LeanSession(gradio.state_holder.SessionState):
    """A visitor's state, without a copy of the whole page's configuration.

    It is for a kind of links that we don't give out, and takes most of a call's time and 100 kB of each visitor.
    """

    def __init__(self, blocks: gr.Blocks) -> None:
        self.blocks_config = copy.copy(blocks.default_config)
        self.config_values = {}
        self.state_data = {}
        self._state_ttl = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = KEPT

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None: ...

    def _update_value_in_config(self, key: int, value: Any) -> None: ...


def plain_payload(error: BaseException | None, show_error: bool) -> dict[str, bool | str | float | None]:
    """What a client is told of an error: never nothing, and nothing of the server."""
    if isinstance(error, gr.Error):
        return error_payload(error, show_error)
    return {"error": WRONG, "title": "Error", "visible": True}


def describe_links(tags: str) -> None:
    """Let what others show of a link to the page be told by these tags of HTML, in place of Gradio's own."""
    environment, name = gradio.routes.templates.env, "frontend/index.html"
    if environment.loader is None:
        return
    source = environment.loader.get_source(environment, name)[0]
    own = re.sub(r"<meta\s+(property=\"og:|name=\"twitter:)[^>]*>", "", source)
    own = own.replace("<meta charset", f"{tags}<meta charset", 1)
    environment.loader = jinja2.ChoiceLoader([jinja2.DictLoader({name: own}), environment.loader])


def install(tags: str) -> None:
    """Before the app is launched; `tags` are for `describe_links`.

    Where the package `mcp` is missing, Gradio starts no server of tools.
    """
    describe_links(tags)
    processing_utils.async_ssrf_protected_download = download
    gradio.state_holder.SessionState = LeanSession  # type: ignore[misc]
    gradio.route_utils.SessionState = LeanSession  # type: ignore[attr-defined]
    gradio.mcp.GradioMCPServer = PictureTools  # type: ignore[misc]
    gradio.route_utils.GradioUploadFile = UnguessableUpload  # type: ignore[misc]
    gradio.route_utils.GradioMultiPartParser = UploadParser  # type: ignore[misc]
    gradio.queueing.error_payload = gradio.utils.error_payload = plain_payload  # type: ignore[attr-defined]
    # It reads all events into a table of pandas whenever one fails, for a page of statistics that is switched off.
    gradio.queueing.Queue.compute_analytics_summary = lambda *_: {}  # type: ignore[method-assign]
