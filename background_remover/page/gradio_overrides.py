"""What is replaced in Gradio because nothing of it can be derived from: all of it is here, read from Gradio 6.31.0."""

from __future__ import annotations

import secrets
from typing import Any, NoReturn

import gradio as gr
import gradio.mcp
import gradio.route_utils
import gradio.routes
import gradio.static_server
from fastapi import HTTPException
from gradio import processing_utils

from background_remover.fetch import fetch
from background_remover.page.mcp_tools import PictureTools
from utilities import PhotoError


async def download(url: str, cache_dir: str) -> str:
    """`fetch`: Gradio's own has no limit and lets some private networks be reached.

    Any component downloads the URLs in what a client sends it, one for texts too, so that it is not enough to derive
    from those for photos.
    """
    try:
        return await fetch(url, cache_dir)
    except PhotoError as error:
        raise gr.Error(str(error), print_exception=False) from None


class UnguessableUpload(gradio.route_utils.GradioUploadFile):
    """An upload whose folder nobody can guess: by content alone, whoever has the same file could ask for its name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sha.update(secrets.token_bytes(16))


def refuse(*_: Any, **__: Any) -> NoReturn:
    """In the place of what the page does not need and a stranger could use."""
    raise HTTPException(404, "Not found")


def install() -> None:
    """Before the app is launched. Where the package `mcp` is missing, Gradio starts no server of tools."""
    processing_utils.async_ssrf_protected_download = download
    gradio.mcp.GradioMCPServer = PictureTools  # type: ignore[misc]
    gradio.route_utils.GradioUploadFile = UnguessableUpload  # type: ignore[misc]
    # /process_recording has ffmpeg read what a playlist names, and /component_server leaves files in no folder of ours;
    # /upload has a parser of its own, in route_utils.
    gradio.routes.GradioMultiPartParser = refuse  # type: ignore[assignment, attr-defined]
    # /file=http://... fetches for anybody, from networks that `fetch` refuses.
    gradio.routes.secure_url_stream_response = refuse  # type: ignore[attr-defined]
    gradio.static_server.secure_url_stream_response = refuse  # type: ignore[attr-defined]
    # /deep_link stores visitors' values for as long as anybody makes new links.
    gradio.route_utils.create_url_safe_hash = refuse
