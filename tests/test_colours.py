"""Colours as CSS writes them."""

import pytest

from background_remover.colours import parse_colour
from utilities import PhotoError


@pytest.mark.parametrize(
    ("text", "rgb"),
    [
        ("white", (255, 255, 255)),
        ("#f80", (255, 136, 0)),
        (" #FF8800 ", (255, 136, 0)),
        ("rgb(1, 2, 3)", (1, 2, 3)),
        ("rgba(254.6, 2.2, 3, 0.5)", (255, 2, 3)),
        ("hsl(120, 100%, 50%)", (0, 255, 0)),
    ],
)
def test_colours_are_read_as_css_writes_them(text, rgb):
    assert parse_colour(text) == rgb


@pytest.mark.parametrize("text", ["", "nocolour", "#12", "rgb(1,2)", "transparent-ish"])
def test_other_words_are_no_colours(text):
    with pytest.raises(PhotoError, match="not a colour"):
        parse_colour(text)
