"""What is replaced in Gradio because nothing of it can be derived from: all of it is here, read from Gradio 6.31.0."""

from __future__ import annotations

import gradio as gr
import gradio.mcp
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


def install() -> None:
    """Before the app is launched. Where the package `mcp` is missing, Gradio starts no server of tools."""
    processing_utils.async_ssrf_protected_download = download
    gradio.mcp.GradioMCPServer = PictureTools  # type: ignore[misc]
