from __future__ import annotations

import os
from pathlib import Path

import pytest

from imageset.utils.integrity.file_digests import (
    add_digests,
    find_damaged_files,
    forget_checks,
    has_unchecked_files,
    hash_files,
    is_intact_manifest,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files, in a project."""
    (tmp_path / "dvc.yaml").touch()
    folder = tmp_path / "data" / "raw"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / name).write_bytes(b"content of " + name.encode())
    return folder


def damage(path: Path, keep_time: bool) -> None:
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.write(b"C")
    os.utime(path, ns=times if keep_time else (0, 0))


def test_a_changed_file_is_damaged_at_the_next_check(folder: Path) -> None:
    digests = hash_files(folder, ["a", "b"])
    assert find_damaged_files(folder, digests) == []
    damage(folder / "b", keep_time=False)
    assert find_damaged_files(folder, digests) == ["b"] == find_damaged_files(folder, digests)
    (folder / "a").unlink()
    assert find_damaged_files(folder, digests) == ["a", "b"]


def test_only_a_thorough_check_finds_damage_that_kept_the_time_and_the_next_one_remembers_it(folder: Path) -> None:
    digests = hash_files(folder, ["a", "b"])
    find_damaged_files(folder, digests)
    damage(folder / "b", keep_time=True)
    assert find_damaged_files(folder, digests) == []
    assert find_damaged_files(folder, digests, thorough=True) == ["b"]
    assert find_damaged_files(folder, digests) == ["b"]


def test_after_an_error_elsewhere_the_next_check_reads_every_file(folder: Path) -> None:
    digests = hash_files(folder, ["a", "b"])
    find_damaged_files(folder, digests)
    damage(folder / "b", keep_time=True)
    forget_checks(folder)
    assert find_damaged_files(folder, digests) == ["b"]


def test_a_damaged_record_of_checks_is_not_believed(folder: Path) -> None:
    digests = hash_files(folder, ["a", "b"])
    find_damaged_files(folder, digests)
    (record,) = (folder.parents[1] / ".cache" / "checked").iterdir()
    data = record.read_bytes()
    damage(folder / "b", keep_time=True)
    record.write_bytes(data[:-4] + b"9" + data[-3:])
    assert find_damaged_files(folder, digests) == ["b"]


def test_outside_of_a_project_every_check_reads_every_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    digests = hash_files(tmp_path, ["a"])
    assert find_damaged_files(tmp_path, digests) == []
    damage(tmp_path / "a", keep_time=True)
    assert find_damaged_files(tmp_path, digests) == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_has_unchecked_files_until_all_of_them_are_checked(folder: Path) -> None:
    digests = hash_files(folder, ["a", "b"])
    assert has_unchecked_files(folder, digests)
    find_damaged_files(folder, digests)
    assert not has_unchecked_files(folder, digests)
    os.utime(folder / "a", ns=(0, 0))
    assert has_unchecked_files(folder, digests)
    find_damaged_files(folder, digests)
    assert has_unchecked_files(folder, {"a": digests["a"]})


def test_a_project_that_cannot_be_written_to_is_checked(folder: Path) -> None:
    (folder.parents[1] / ".cache").write_text("no folder")
    assert find_damaged_files(folder, hash_files(folder, ["a"])) == []


def test_a_manifest_has_its_own_digest() -> None:
    manifest = add_digests({"name": "set"}, {"a": "0" * 64})
    assert is_intact_manifest(manifest) and is_intact_manifest({"name": "older"})
    for damaged in ({"name": "sat"}, {"digests": {}}, {"sha256": "0"}):
        assert not is_intact_manifest(manifest | damaged)
    for key in ("digests", "sha256"):
        assert not is_intact_manifest({name: value for name, value in manifest.items() if name != key})
