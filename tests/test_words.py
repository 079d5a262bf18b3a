"""The words of texts in any script, and what is learned of them."""

from __future__ import annotations

import json
import re
import sys
import time
import unicodedata
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlearn.events import Event
from streamlearn.hashing import ObjectHasher
from streamlearn.words import composed, is_text, words
from tests.decoding import decode, event, reason

hasher = ObjectHasher(1 << 16, max_depth=8)


def same(a: str, b: str) -> bool:
    return bool((hasher({"t": a}) == hasher({"t": b})).all())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two, WORDS: don't re-use 'x_y' (3.5/4)", "two words don t re use x_y 3 5 4"),
        ("don’t … “stop” – now|then", "don t stop now then"),
        ("C++ & C#: $5, 20 % off!?", "c + + & c # $ 5 20 % off ! ?"),
        ("me@home a<b>=c ~*^", "me @ home a < b > = c ~ * ^"),
        ("¿Qué? £5 −3 20 °C", "¿ qué ? £ 5 − 3 20 ° c"),
        ("की बात का", "की बात का"),
        ("e\u0301cole", "école"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("i̇stanbul İSTANBUL", "i̇stanbul i̇stanbul"),
        ("great😀 ❤\ufe0flove", "great 😀 ❤ \ufe0f love"),
        ("👍🏽", "👍 🏽"),
        ("🇩🇪", "🇩 🇪"),
        ("我用Python写程序。3年！", "我 用 python 写 程 序 3 年 ！"),
        ("カタカナ・ひらがな ｶﾅ", "カ タ カ ナ ひ ら が な ｶ ﾅ"),
        ("กี่ครั้ง", "กี่ ค รั้ ง"),
        ("한국어 텍스트", "한국어 텍스트"),
        (unicodedata.normalize("NFD", "한국어 が"), "한국어 が"),
        ("ភាសា မြန်", "ភា សា မြ န်"),
        (" ... -- ", None),
        ("", ""),
        (" \t\u3000", ""),
    ],
)
def test_the_words_of_a_text(text: str, expected: str | None) -> None:
    assert words(text) == ([text.strip()] if expected is None else expected.split())


plain = st.text("abcXYZ019_ \n\t.,;:'\"()[]{}-/\\`|éßñ’“”–—…«»", max_size=40)


@settings(deadline=None)  # a loaded machine is no failure
@given(plain)
def test_text_without_symbols_is_what_it_was(text: str) -> None:
    found = re.findall(r"\w+", text.lower())
    assert words(text) == (found or ([text.strip()] if text.strip() else []))


@settings(deadline=None)  # a loaded machine is no failure
@given(st.text(st.characters(max_codepoint=127)), st.text())
def test_one_way_for_ascii_and_one_for_all_are_one(text: str, more: str) -> None:
    expected = words(text) if re.search(r"[\w!#$%&*+<=>?@^~]", text) else []
    assert words(f"{text} é")[:-1] == expected
    assert words(f"{more} {text} é")[-1] == "é"


@pytest.mark.slow
def test_every_character_is_found_composed_or_not() -> None:
    for code in range(sys.maxunicode + 1):
        if 0xD800 <= code < 0xE000:
            continue
        text = f"a {chr(code)}b {chr(code)}"
        found = words(text)
        assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text)) == found
        if unicodedata.category(chr(code))[0] in "LNMS" and chr(code) not in "`|¦⁄":
            kept = "".join(found) != "ab"
            assert kept or unicodedata.category(chr(code)) == "Sk", hex(code)


@settings(deadline=None)  # a loaded machine is no failure
@given(st.text(), st.text())
def test_no_text_is_without_words_and_none_holds_a_space(text: str, more: str) -> None:
    assert bool(words(text)) == bool(text.strip())
    for word in words(f"{text} a {more}"):
        assert word and not re.search(r"\s", word)
        assert composed(word) == word


@pytest.mark.parametrize(
    "texts",
    [
        ["C++ developer", "C# developer", "C developer"],
        ["great 😀", "great 😡", "great", "great!", "great?"],
        ["यह की है", "यह का है", "यह क है"],
        ["ดี มาก", "ดู มาก", "ด มาก"],
        ["a 👍", "a 👍🏽", "a 👍🏿"],
        ["a 👨\u200d👩\u200d👧", "a 👨👩👧", "a 👨\u200d👩\u200d👦"],
        ["a 🇩🇪", "a 🇩🇰", "a 🇪🇩"],
        ["a ❤", "a ❤\ufe0f"],
        ["a 1\ufe0f\u20e3", "a 2\ufe0f\u20e3"],
        [
            "a 🏴\U000e0067\U000e0062\U000e0065\U000e007f",
            "a 🏴\U000e0067\U000e0062\U000e0073\U000e007f",
            "a 🏴",
        ],
        ["💲 5", "€ 5", "$ 5", "5"],
        ["... ...", "--- ---"],
        ["不好", "好不", "好"],
    ],
)
def test_what_means_something_else_is_another_vector(texts: list[str]) -> None:
    for a, b in combinations(texts, 2):
        assert not same(a, b), (a, b)


letters = st.text("这部电影很好看カタかなกขคກຂខគကခ", min_size=2, max_size=100)


@settings(deadline=None)  # a loaded machine is no failure
@given(letters)
def test_scripts_without_spaces_are_as_if_they_had_them(text: str) -> None:
    assert is_text(text)
    assert words(text) == list(text)
    assert same(text, " ".join(text))
    tokens = [*text, *(f"{a} {b}" for a, b in pairwise(text))]
    assert np.linalg.norm(hasher({"t": text})) > 0 and len(tokens) == 2 * len(text) - 1
    found = event(decode({"x": text, "y": "pos"}))
    assert found.x.any() and found.y == "pos"


def test_canonical_twins_are_one() -> None:
    for a, b in (("e\u0301cole", "école"), ("le e\u0301", "le é")):
        assert same(a, b)
        assert (hasher({"t": [a]}) == hasher({"t": [b]})).all()


@settings(deadline=None)  # a loaded machine is no failure
@given(st.text().filter(lambda text: bool(text.strip())))
def test_every_text_is_an_event(text: str) -> None:
    """But for what passes for data: a data: URL, or a long run of ASCII."""
    found = decode(json.dumps({"x": text}).encode())
    if text.startswith("data:") or (len(text) > 64 and text.isascii() and not is_text(text)):
        assert reason(found) == "bad_features"
    else:
        assert isinstance(found, Event)


def test_a_blob_is_no_text() -> None:
    assert reason(decode({"x": "iVBORw0KGgo" * 9})) == "bad_features"
    assert event(decode({"x": "很" * 65})).x.any()
    assert event(decode({"x": "😀" * 65})).x.any()


@pytest.mark.parametrize(
    "text", ["a " + "\u0316\u0301" * 300_000, "a " + "\u0301" * 300_000 + "\u0316" * 300_000]
)
def test_a_heap_of_marks_takes_no_time_to_speak_of(text: str) -> None:
    started = time.process_time()
    assert words(text)[0] == "a"
    assert time.process_time() - started < 5  # ordered, they take many minutes


def test_two_classes_of_chinese_are_told_apart() -> None:
    """A sentence as one category is new every time: nothing could be learned of it."""
    rng = np.random.default_rng(0)
    sides = ["好棒赞美佳优", "坏差烂糟臭劣"]
    filler = list("这部电影的故事和演员我们都觉得真是非常")
    x, y = [], []
    for number in range(400):
        side = number % 2
        chosen = [*rng.choice(filler, 24), *rng.choice(list(sides[side]), 3)]
        rng.shuffle(chosen)
        x.append(hasher({"text": "".join(chosen)}))
        y.append(side)
    rows, labels = np.array(x), np.array(y)
    means = [rows[:300][labels[:300] == side].mean(0) for side in (0, 1)]
    right = (rows[300:] @ (means[1] - means[0]) > 0) == labels[300:]
    assert right.mean() > 0.95
