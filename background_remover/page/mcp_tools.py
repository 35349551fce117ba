"""The app as a server of tools for language models (MCP), at /gradio_api/mcp/: Gradio's own, made to fit pictures.

Only endpoints that give one picture are tools. A picture goes out byte for byte as it was written, unless it is too
large for a client to take in; then a small one goes out, and in either case the URL of the whole. A data: URL comes
in without being left on the disk.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import gradio.mcp
from PIL import Image

from utilities import PhotoError

TOOLS = ("cutout", "matte", "edit")  # endpoints
INLINE_BYTES = 700_000  # of a picture in an answer; clients refuse answers of more than about 1 MB, in base64
PREVIEW = 512  # pixels: longer side of what goes out instead of a larger one


class PictureTools(gradio.mcp.GradioMCPServer):
    """Gradio's server with the endpoints of TOOLS alone."""

    def get_tool_to_endpoint(self) -> dict[str, str]:
        """The names of tools, with the endpoint of each."""
        return {self.tool_prefix + name: f"/{name}" for name in TOOLS}

    @property
    def _file_data_tool_description(self) -> str:
        return (
            " Pictures are given as the URL of a public picture, as a data: URL, or as the URL that an earlier answer"
            " gave or that the tool upload_file_to_gradio gives, if there is one."
        )

    def convert_strings_to_filedata(self, value: Any, filedata_positions: list[list[str | int]]) -> Any:
        """Arguments of a tool, with pictures as Gradio's files; an empty text is no picture."""
        value = dict(value)
        if any(isinstance(given, dict | list) for given in value.values()):
            raise PhotoError("Every argument is a text, a number or a yes or no: give pictures as URLs.")
        for name in [str(position[0]) for position in filedata_positions]:
            text = value.get(name)
            if isinstance(text, str) and text.startswith("data:"):
                value[name] = {"url": text, "meta": {"_type": "gradio.FileData"}}
            elif not text:
                value.pop(name, None)
            elif not str(text).startswith(("http://", "https://")):
                raise PhotoError("This picture can't be reached from here: give its http or https URL, or a data: URL.")
        return super().convert_strings_to_filedata(value, filedata_positions)

    @staticmethod
    def get_base64_data(image: Image.Image, format: str) -> str:  # noqa: A002  # Gradio's name
        """What goes out of a picture: the file as it is, or a small copy in that format if it is large."""
        data = Path(image.filename).read_bytes()  # type: ignore[attr-defined]  # of the file that the endpoint wrote
        if len(data) > INLINE_BYTES:
            image.thumbnail((PREVIEW, PREVIEW))
            buffer = io.BytesIO()
            image.save(buffer, format)
            data = buffer.getvalue()
        return base64.b64encode(data).decode()
