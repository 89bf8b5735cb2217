from __future__ import annotations

import io

from imageset.utils.progress import Progress


def test_a_log_gets_plain_lines() -> None:
    log = io.StringIO()
    with Progress("normalize", stream=log, seconds_between_lines=0) as progress:
        progress.begin(total=1797)
        progress.advance(1200)
        progress.advance(597)
    assert log.getvalue().splitlines() == [
        "normalize: 1,200/1,797 pictures (66%)",
        "normalize: 1,797/1,797 pictures (100%)",
        "normalize: 1,797/1,797 pictures (100%)",
    ]


def test_quick_work_stays_quiet() -> None:
    log = io.StringIO()
    with Progress("normalize", stream=log) as progress:
        progress.begin(total=2)
        progress.advance(2)
    assert log.getvalue() == ""


def test_an_unknown_total_counts_up() -> None:
    log = io.StringIO()
    progress = Progress("predict", stream=log, seconds_between_lines=0)
    progress.begin()
    progress.advance(3)
    assert log.getvalue() == "predict: 3 pictures\n"
