import io
import logging

import pytest

from flows.notifications import console


@pytest.fixture(autouse=True)
def detached(monkeypatch):
    """No handler of another test; this test's are gone afterwards."""
    monkeypatch.setattr(logging.getLogger("flows"), "handlers", [])


@pytest.mark.parametrize(
    ("verbosity", "is_terminal", "shows"),
    [
        (console.NORMAL, True, True),
        (console.VERBOSE, True, True),
        (console.QUIET, True, False),
        (console.NORMAL, False, False),
    ],
)
def test_bars_are_for_terminals_and_not_for_quiet_commands(verbosity, is_terminal, shows, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr("sys.stderr", terminal)
    console.attach_console(verbosity)
    assert console.shows_bars() is shows
    assert console.ChildOutput(console.get_logger("flows.test")).variables["CONVOY_PROGRESS"] == (
        "relay" if shows else "lines"
    )


def test_a_flow_without_a_console_shows_no_bars(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr", terminal)
    assert not console.shows_bars()


def test_a_message_stands_above_the_bar(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("imageset.utils.progress.BAR_DELAY_S", 0.0)
    console.attach_console()
    logger = console.get_logger("flows.test")
    with console.make_progress("work", logger) as progress:
        progress.begin(total=2)
        progress.advance()
        logger.info("a message")
    lines = terminal.getvalue().split("\r")
    assert "a message\n" in lines, "the bar is taken off the line first"


def test_escapes_in_the_name_of_a_class_do_not_reach_the_terminal(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr("sys.stderr", terminal)
    console.attach_console()
    console.get_logger("flows.test").info("class %s\nand more", "\x1b]0;title\x07a")
    assert terminal.getvalue() == "class \\x1b]0;title\\x07a\nand more\n"
