"""Files in data: URLs."""

from __future__ import annotations

import binascii
import re

import numpy as np

from background_remover.kinds import TooLargeError, too_many_bytes
from utilities import PhotoError

NO_DATA_URL = "This is not a photo as a data: URL that can be read: send it as 'data:image/png;base64,' and its bytes."
SAYS_BASE64 = re.compile(rb"; *base64[\t\n\f\r ]*\Z", re.IGNORECASE)
BASE64_DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
WHITESPACE = b"\t\n\f\r "
C0_AND_SPACE = bytes(range(33))
ESCAPE = 3  # characters of an escaped byte in a URL, "%" and two digits
MAX_MIME = 10_000  # characters of a data: URL that are not its body, whitespace included
HEX_VALUES = np.full(256, 16, np.uint8)  # by character; 16 where it is no digit
HEX_VALUES[list(b"0123456789abcdef")] = range(16)
HEX_VALUES[list(b"ABCDEF")] = range(10, 16)


def decode_data_url(text: str, max_bytes: int) -> bytes:
    """The bytes in a data: URL, read as browsers do (WHATWG, Fetch standard, "data: URLs", and forgiving base64).

    Raises PhotoError for what is none, is not base64 though it says so, or holds more than `max_bytes`.
    """
    if not isinstance(text, str):
        raise PhotoError(NO_DATA_URL)
    if len(text) > ESCAPE * max_bytes + MAX_MIME:  # whatever it holds
        raise TooLargeError(too_many_bytes(max_bytes))
    url = text.encode("utf-8", "replace").strip(C0_AND_SPACE).translate(None, b"\t\n\r")
    head, comma, body = url.partition(b"#")[0].partition(b",")
    scheme, colon, mime = head.partition(b":")
    if not comma or not colon or scheme.lower() != b"data":
        raise PhotoError(NO_DATA_URL)
    body = _unescape(body)
    if SAYS_BASE64.search(mime):
        body = body.translate(None, WHITESPACE)
        body = body.removesuffix(b"=").removesuffix(b"=") if len(body) % 4 == 0 else body
        if len(body) % 4 == 1 or body.translate(None, BASE64_DIGITS):
            raise PhotoError(NO_DATA_URL)
        if len(body) * 3 // 4 <= max_bytes:
            body = binascii.a2b_base64(body + b"=" * (-len(body) % 4))
    if len(body) > max_bytes:
        raise TooLargeError(too_many_bytes(max_bytes))
    return body


def _unescape(body: bytes) -> bytes:
    """Each "%" with two hexadecimal digits is a byte; any other is itself. In C, since there may be millions."""
    if b"%" not in body:
        return body
    given = np.frombuffer(body, np.uint8)
    digits = HEX_VALUES[given]
    escapes = np.zeros(len(given) + 2, bool)  # where one starts
    escapes[2:-2] = (given[:-2] == ord("%")) & (digits[1:-1] < 16) & (digits[2:] < 16)
    values = given.copy()
    values[:-2][escapes[2:-2]] = (digits[1:-1] << 4 | digits[2:])[escapes[2:-2]]
    return values[~(escapes[1:-1] | escapes[:-2])].tobytes()
