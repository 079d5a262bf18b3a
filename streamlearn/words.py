"""The words of a text, in any script.

- A word is a run of letters, digits, marks and joiners, in lower case and in normal form C: marks are vowels
  in many scripts, and an accent may be a character of its own.
- Scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, …) would make one word of a sentence.
  There every letter, with its marks, is a word; with pairs of neighbours that makes the unigrams and bigrams
  of characters.
- A symbol that means something (an emoji, + # % $ ! ?) is a word of its own. Punctuation that only separates
  (. , ; : quotes, brackets, hyphens, slashes) is left out.
"""

from __future__ import annotations

import re
from unicodedata import category, normalize

_SPACE = re.compile(r"\s")
_WITHOUT_SPACES = (
    "\u0e01-\u0e3a\u0e40-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
    "\u1950-\u1aaf\u1b00-\u1b7f\ua980-\ua9ff\uaa60-\uaadf"  # Tai scripts, Buginese, Balinese, Javanese
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Chinese
    "\u3040-\u312f\u31a0-\u31ff\uff66-\uff9f\U0001aff0-\U0001b2ff"  # kana, Bopomofo
    "\ua000-\ua4cf\U00016fe0-\U00018dff\U00020000-\U0003ffff"  # Yi, Tangut; Chinese again
)
_UNSPACED = re.compile(f"[{_WITHOUT_SPACES}]")
_ASCII_WORD = re.compile(r"\w+|[!#$%&*+<=>?@^~]")
_WORD = re.compile(rf"[{_WITHOUT_SPACES}][^\w\s]*|\w[^\s{_WITHOUT_SPACES}]*|[^\w\s]+")
"""In what `_KINDS` has made of a text, where what is neither a letter nor a space is a mark, or set apart."""

_MEANT = frozenset("!#%&*?@¡¿§¶†‡‰‱‼‽⁇⁈⁉⸮՜՞؟٪〰﹖﹗﹟﹠﹡﹪﹫！＃％＆＊？＠")
"""Punctuation by Unicode's book, but it says something."""
_SEPARATING = frozenset("|¦⁄")
"""Symbols by the book, and used as slashes are."""
_MANY_MARKS = re.compile(r"([^\w\s!-~]{31,})")
"""More marks on one letter than Unicode's Stream-Safe Text Format allows for."""


class _Kinds(dict[int, str]):
    """For `str.translate`: a letter or mark is itself, a symbol is set apart, all else is a space.

    A character is looked up when it is first met: there are a million, and starting up mustn't take long.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = category(character)
        if character.isalnum() or character == "_" or kind[0] == "M" or _joins(code):
            made = character
        elif character in _MEANT or (character not in _SEPARATING and _is_symbol(kind, code)):
            made = f" {character} "
        else:
            made = " "
        if len(self) < 1 << 16:  # more than any stream needs that isn't made to fill our memory
            self[code] = made
        return made


_KINDS = _Kinds()


def is_text(value: str) -> bool:
    """Whether it has several words, most likely: it holds white space, or letters that need none."""
    return bool(_SPACE.search(value) or (not value.isascii() and _UNSPACED.search(value)))


def words(text: str) -> list[str]:
    """The words of `text` in order; of one without any the text itself, unless it is only white space."""
    if text.isascii():
        found = _ASCII_WORD.findall(text.lower())
    else:
        found = _WORD.findall(composed(text.lower()).translate(_KINDS))
    if not found and (rest := text.strip()):
        found = [composed(rest)]
    return found


def composed(text: str) -> str:
    """`text` in normal form C, but for heaps of marks, which take the square of the time to be ordered."""
    if text.isascii():
        return text
    if not _MANY_MARKS.search(text):
        return normalize("NFC", text)
    pieces = _MANY_MARKS.split(text)
    pieces[::2] = [normalize("NFC", piece) for piece in pieces[::2]]
    return "".join(pieces)


def _joins(code: int) -> bool:
    """Invisible, and part of what it stands in: ZWNJ, ZWJ, the letters that make a flag of England's."""
    return code in (0x200C, 0x200D) or 0xE0020 <= code <= 0xE007F


def _is_symbol(kind: str, code: int) -> bool:
    if kind == "Sk":  # accents without a letter, of which some pass for quotes; but also tones of skin
        return code == ord("^") or code >= 0x1F000
    # Emoji that are newer than Python are unassigned, and icons are in private use.
    return kind[0] == "S" or kind in ("Cn", "Co")
