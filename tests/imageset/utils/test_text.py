import html
import re

import pytest
import yaml
from markdown_it import MarkdownIt

from imageset.rejections import escape_control_characters
from imageset.utils.text import (
    escape_cell,
    escape_lines,
    escape_markdown,
    format_class_count,
    format_count,
    format_duration,
    suggest_number,
    unescape_cell,
)


def test_one_is_said_as_one():
    assert format_count(1, "picture") == "1 picture" and format_count(0, "picture") == "0 pictures"
    assert format_count(1162, "picture") == "1,162 pictures"
    assert format_count(2, "picture is", "pictures are") == "2 pictures are"
    assert format_class_count(1, False) == "1 class" and format_class_count(2, False) == "2 classes"
    assert format_class_count(1, True) == "1 label"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "a few seconds"), (7, "a few seconds"), (8, "about 10 s"), (43, "about 40 s"), (56, "about 1 min"),
        (171, "about 3 min"), (1000, "about 15 min"), (3500, "about 1 h"), (9000, "about 2 h"),
    ],
)  # fmt: skip
def test_a_duration_has_no_false_precision(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-rf", "'-rf"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("'=1", "''=1"),
        ("-1", "-1"),
        ("+4.5e-3", "+4.5e-3"),
        ("cat", "cat"),
        ("'cat'", "'cat'"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_a_cell_is_no_formula_and_is_read_back(text, cell):
    assert escape_cell(text) == cell and unescape_cell(cell) == text


def test_no_control_character_reaches_a_terminal_but_the_ends_of_lines():
    assert escape_lines("a\x1b]0;x\x07\nb\r\u202ec\x9b31m é") == "a\\x1b]0;x\\x07\nb\\r\\u202ec\\x9b31m é"


@pytest.mark.parametrize(
    ("text", "number", "whole"),
    [
        ("5e-2", "0.05 or 5.0e-2", ""), ("1E5", "100000 or 1.0e+5", "100000"), ("1.5e3", "1500 or 1.5e+3", "1500"),
        (".5e-1", "0.05 or 0.5e-1", ""), ("0,05", "0.05", ""), ("5%", "0.05", ""), ("3", "3", "3"),
        ("fast", "", ""), ("-2e-4", "-0.0002 or -2.0e-4", ""), ("1e", "", ""), ("2e400", "", ""),
    ],
)  # fmt: skip
def test_text_that_looks_like_a_number_is_shown_as_one_that_yaml_reads(text, number, whole):
    assert suggest_number(text, whole=False) == (f"; write {number}" if number else "")
    assert suggest_number(text, whole=True) == (f"; write {whole}" if whole else "")
    assert all(isinstance(yaml.safe_load(each), int | float) for each in number.split(" or ") if each)


HOSTILE_TEXTS = (
    "![x](http://evil.example/pixel.png)", "[l](javascript:alert(1))", "<img src=x onerror=alert(1)>", "`code`",
    "a|b", "a\nb\n\n# heading", "**bold** _it_ ~~gone~~", "http://evil.example", "www.evil.example",
    "me@evil.example", "<http://evil.example>", "&lt;b&gt;", "\\", "\\[x](y)", "[x]: http://evil.example",
    "![x][y]", "$x$", "a\\|b",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
@pytest.mark.parametrize("line", ["# {}", "| {} | b |", "retrain: {}"])
def test_nothing_in_a_text_is_markup_in_markdown(text, line):
    markdown = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    head = "| a | b |\n| --- | --- |\n" if line.startswith("|") else ""
    page = markdown.render(head + line.format(escape_markdown(text)))
    allowed = {"h1", "p", "table", "thead", "tbody", "tr", "th", "td"}
    assert set(re.findall(r"</?([a-z0-9]+)", page)) <= allowed
    assert not re.search(
        r"https?://|www\.|(?<!\\)@", escape_markdown(text)
    )  # of which pages make links by themselves
    shown = html.unescape(re.sub(r"<[^>]*>", "", page))
    assert escape_control_characters(text) in shown
