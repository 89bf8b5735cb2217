from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from imageset.utils.atomic_write import own_temporary, remove_unowned, replace_file, replace_folder, write_text

# Writes the same target again and again, each time all of it in its own letter.
WRITER = """
import sys
from pathlib import Path
from imageset.utils.atomic_write import replace_file, replace_folder

target, letter = Path(sys.argv[1]), sys.argv[2]
for _ in range(40):
    if sys.argv[3] == "file":
        with replace_file(target) as temporary:
            temporary.write_text(letter * 5000)
    else:
        with replace_folder(target) as temporary:
            for number in range(5):
                (temporary / f"{letter}{number}").touch()
"""
# Holds a temporary path with something in it until it is killed.
HOLDER = """
import sys, time
from pathlib import Path
from imageset.utils.atomic_write import own_temporary

with own_temporary(Path(sys.argv[1]), is_folder=sys.argv[2] == "folder") as temporary:
    (temporary / "half" if temporary.is_dir() else temporary).write_text("half")
    print(temporary.name, flush=True)
    time.sleep(60)
"""


def run_writers(target: Path, kind: str) -> None:
    """Let four processes write the same target at the same time; all of them succeed."""
    commands = [[sys.executable, "-c", WRITER, str(target), letter, kind] for letter in "abcd"]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    assert [writer.communicate()[1] for writer in writers] == [""] * 4


def test_a_failed_write_leaves_the_earlier_file_and_nothing_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with pytest.raises(RuntimeError), replace_file(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "file").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with replace_folder(tmp_path / "out") as folder:
        (folder / "new").touch()
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["new"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_failed_folder_leaves_the_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(RuntimeError), replace_folder(tmp_path / "out") as folder:
        (folder / "new").touch()
        raise RuntimeError
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["old"]


def test_processes_that_write_one_file_at_once_never_mix_and_leave_nothing(tmp_path: Path) -> None:
    run_writers(tmp_path / "out", "file")
    text = (tmp_path / "out").read_text()
    assert text == text[0] * 5000
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_processes_that_replace_one_folder_at_once_never_mix_and_leave_nothing(tmp_path: Path) -> None:
    run_writers(tmp_path / "out", "folder")
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == [f"{names[0][0]}{number}" for number in range(5)]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_writer_takes_over_what_a_killed_one_left_and_never_what_a_living_one_writes(
    tmp_path: Path, kind: str
) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out"), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        left = holder.stdout.readline().strip()
        with own_temporary(tmp_path / "out", is_folder=kind == "folder") as other:
            assert other.name != left
        holder.kill()
    assert (tmp_path / left).exists()
    with own_temporary(tmp_path / "out", is_folder=kind == "folder") as taken:
        assert taken.name == left
        assert not list(taken.iterdir()) if kind == "folder" else taken.read_bytes() == b""
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_left_is_removed_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    (tmp_path / ".left.json.partial").write_text("{")
    (tmp_path / "kept.json").write_text("{}")
    with own_temporary(tmp_path / "written.json") as temporary:
        remove_unowned(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [temporary.name, "kept.json"]


def test_names_of_the_longest_length_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("ä" * 127), "whole")
    assert (tmp_path / ("ä" * 127)).read_text() == "whole"
