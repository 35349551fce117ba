"""The page's texts in other languages, from `words.txt`; `words.js` shows them to browsers of these languages."""

from __future__ import annotations

import functools
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

LANGUAGES = ("de", "es", "fr", "ja", "pt", "zh")
KEPT = 3600  # seconds for which a browser may keep a table


def read_words(text: str) -> dict[str, dict[str, str]]:
    """The English texts of a table, each with its translations by language; lines that start with # are remarks.

    An empty line ends an entry. Its first line is the English text, in which {0}, {1} and so on stand for what differs;
    each of the others is a language's code, a space, and the text in that language.
    """
    found: dict[str, dict[str, str]] = {}
    for entry in text.split("\n\n"):
        english, *others = [line for line in entry.splitlines() if line and not line.startswith("#")] or [""]
        if english:
            if english in found:
                raise ValueError(f"'{english}' is there twice")
            found[english] = {line[:2]: line[3:] for line in others}
    return found


@functools.cache
def words() -> dict[str, dict[str, str]]:
    """The page's own."""
    return read_words((Path(__file__).parent / "words.txt").read_text("utf-8"))


def words_routes() -> list[BaseRoute]:
    """The path from which a browser has the table for its language: there are none for others, see `page.guard`."""

    async def table(request: Request) -> JSONResponse:
        language = request.path_params["language"]
        texts = {english: others[language] for english, others in words().items() if language in others}
        return JSONResponse(texts, headers={"Cache-Control": f"max-age={KEPT}"})

    return [Route("/words/{language}.json", table)]
