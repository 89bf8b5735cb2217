from __future__ import annotations

from pathlib import Path

from imageset.decoding.decoder import decode
from imageset.decoding.spec import DecodeSpec
from imageset.sources.factory import open_source


def test_the_digits_need_no_files() -> None:
    source = open_source("sklearn://digits")
    assert len(source) == 1797 and source.name == "digits"
    first = next(iter(source))
    assert first.label == "0" and decode(first.read(), DecodeSpec(8, 1, "crop", "nearest", 100)).max() == 239


def test_the_digits_are_written_once(tmp_path: Path) -> None:
    from imageset.sources.benchmark_sets.digits import write_digits

    assert write_digits(tmp_path / "digits", tmp_path / "inbox") == (1797, 0)
    assert write_digits(tmp_path / "digits", tmp_path / "inbox") == (0, 1797)
    assert len(list((tmp_path / "inbox").iterdir())) == 179
    assert len(open_source(tmp_path / "digits")) == 1618
