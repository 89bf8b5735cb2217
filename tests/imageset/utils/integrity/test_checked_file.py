from __future__ import annotations

from pathlib import Path

import pytest

from imageset.utils.integrity.checked_file import read_checked, seal_file, write_checked


def test_a_file_comes_back_and_each_flipped_bit_is_noticed_and_said(tmp_path: Path) -> None:
    path, lines = tmp_path / "file", list[str]()
    write_checked(path, b"content\n")
    stored = path.read_bytes()
    assert read_checked(path, "made again", lines.append) == b"content\n" and lines == []
    bits = range(0, 8 * len(stored), 7)
    for bit in bits:
        damaged = bytearray(stored)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert read_checked(path, "made again", lines.append) is None and not path.exists()
    assert len(lines) == len(bits)
    assert lines[-1] == f"{path}: damaged and removed; made again"


@pytest.mark.parametrize("length", [0, 5, 71, 72, 75])
def test_a_file_that_was_cut_off_is_damaged(tmp_path: Path, length: int) -> None:
    write_checked(tmp_path / "file", b"content\n")
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:length])
    assert read_checked(tmp_path / "file", "made again", lambda line: None) is None


def test_a_missing_file_is_not_damaged(tmp_path: Path) -> None:
    assert read_checked(tmp_path / "file", "made again", pytest.fail) is None


def test_a_file_of_another_library_is_sealed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    seal_file(tmp_path / "file")
    assert read_checked(tmp_path / "file", "made again", pytest.fail) == b"content"


def test_a_file_without_a_digest_is_used_only_if_an_earlier_version_wrote_it(tmp_path: Path) -> None:
    lines = list[str]()
    for content, expected in ((b"PAR1...", b"PAR1..."), (b"QAR1...", None)):
        (tmp_path / "file").write_bytes(content)
        older = read_checked(tmp_path / "file", "made again", lines.append, lambda data: data.startswith(b"PAR1"))
        assert older == expected
    (line,) = lines
    assert "without a digest" in line
