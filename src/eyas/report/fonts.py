"""Fonts for the names of classes, which may be in any script: matplotlib's own font has no Chinese, for example."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

OWN = "DejaVu Sans"
"""The font that comes with matplotlib."""
LAST_RESORT = "Last Resort"
"""Fonts of this name have one symbol for each script, and no characters."""
UNKNOWN = "\N{WHITE SQUARE}"
"""Drawn for a character that no installed font has."""


def families(text: str) -> list[str]:
    """Font families that together have every character of a text, as far as installed fonts have them."""
    return [OWN, *sorted({font for character in set(text) if (font := _font_of(character)) not in (OWN, None)})]


def writable(text: str) -> str:
    """The text, with a square for each character that no installed font has."""
    return "".join(UNKNOWN if _font_of(character) is None else character for character in text)


def unwritable(texts: Iterable[str]) -> list[str]:
    """The texts that have such a character."""
    return [text for text in texts if writable(text) != text]


@cache
def _font_of(character: str) -> str | None:
    """The family of an installed font that has a character; None if there is none."""
    if character in "\n" or ord(character) in _characters(font_manager.findfont(OWN)):
        return OWN
    fonts = [font for font in font_manager.fontManager.ttflist if LAST_RESORT not in font.name]
    fonts.sort(key=lambda font: (font.style != "normal", font.name))
    return next((font.name for font in fonts if ord(character) in _characters(font.fname)), None)


@cache
def _characters(path: str) -> frozenset[int]:
    return frozenset(FT2Font(path).get_charmap())
