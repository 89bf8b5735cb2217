import numpy as np
import pytest

from flows.monitoring.image_groups import count_rejected, merge_near_duplicates, name_groups, pick_named


@pytest.mark.parametrize(
    ("uris", "names"),
    [
        (["a/1.png", "a/2.png", "b/1.png"], ["a", "a", "b"]),  # folders
        (["d/s1_1.png", "d/s1_2.png", "d/x.png", "e/1.png"], ["d/s1", "d/s1", "d", "e"]),  # and their sequences
        (["00012_00000.ppm", "00012_00001.ppm", "00013_00000.ppm", "00013_00029.ppm", "x.ppm"],
         ["/00012", "/00012", "/00013", "/00013", None]),  # sequences of one folder
        (["in/IMG_0001.jpg", "in/IMG_0002.jpg", "in/DSC_0001.jpg", "in/DSC_0002.jpg"], [None] * 4),  # counters
        (["monday-000.png", "monday-001.png", "monday-002.png"], [None] * 3),  # one sequence says nothing
        (["a1b2.png", "c3d4.png", "77ff.png"], [None] * 3),  # names without a system
        (["cat/1.png", "dog/1.png"], [None] * 2),  # folders of classes
        (["day1/cat/1.png", "day2/dog/1.png", "day1/dog/2.png"], ["day1", "day2", "day1"]),
    ],
)  # fmt: skip
def test_folders_and_sequences_of_names_are_groups(uris, names):
    assert name_groups(uris, "auto", ("cat", "dog")) == names


def test_a_regular_expression_or_null_takes_the_place_of_the_guess():
    uris = ["a/s1-1.png", "b/s1-2.png", "b/other.png"]
    assert name_groups(uris, r"(s\d)-", ()) == ["s1", "s1", None]
    assert name_groups(uris, None, ()) == [None] * 3


def test_the_groups_of_the_source_come_first():
    assert pick_named({"a": "x", "b": None}, ["a", "b"], ["guess", "guess"]) == ["x", None]
    assert pick_named({}, ["a"], ["guess"]) == pick_named({"a": None}, ["a"], ["guess"]) == ["guess"]


def test_near_duplicates_are_of_one_group_and_join_the_groups_they_lie_in():
    draws = np.random.default_rng(0)
    pictures = list(draws.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8))
    pictures += [np.clip(pictures[0].astype(int) + 1, 0, 255).astype(np.uint8)]  # as the first
    names = [None, "a", "a", None, "b", "a"]
    assert merge_near_duplicates(names, pictures, 4).tolist() == [0, 0, 0, 3, 4, 0]
    assert merge_near_duplicates(names, pictures, None).tolist() == [0, 1, 1, 3, 4, 1]
    assert merge_near_duplicates(names, [], 4).tolist() == [0, 1, 1, 3, 4, 1]


def test_a_folder_that_cannot_be_read_counts_as_one_group():
    readable, unreadable = ["a"] * 10 + ["b"] * 10, ["c"] * 20 + ["b"] * 10
    assert count_rejected(readable, unreadable, 20, 30).tolist() == [1, 3]  # c, and half of b
    assert count_rejected([None] * 10, [None] * 5, 20, 5).tolist() == [5, 25]  # a sample of those that can be read
    assert count_rejected([], [None] * 60, 0, 60).tolist() == [60, 60]
