import numpy as np
import pytest

from flows.monitoring.image_groups import (
    count_rejected,
    merge_near_duplicates,
    merge_neighbours,
    name_groups,
    pick_named,
)
from tests.helpers.models import make_reference_sample


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
        (["cat_1.png", "cat_2.png", "dog_1.png", "dog_2.png"], [None] * 4),  # and their names
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


def test_neighbours_that_the_network_hardly_tells_apart_are_of_one_scene():
    draws, reference = np.random.default_rng(0), make_reference_sample(300, seed=1)
    scenes = np.repeat(draws.normal(0, 1, (3, 16)), 8, axis=0) + draws.normal(0, 0.2, (24, 16))
    uris = [f"in/IMG_{number}.jpg" for number in range(90, 114)]  # IMG_100 follows IMG_99
    found = merge_neighbours(np.arange(24), [None] * 24, uris, scenes, reference)
    assert found.tolist() == [0] * 8 + [8] * 8 + [16] * 8
    named = merge_neighbours(np.arange(24), ["a"] * 24, uris, scenes, reference)
    assert named.tolist() == list(range(24))  # names come first
    apart = merge_neighbours(np.arange(24), [None] * 24, [f"{uri[-6]}/{uri}" for uri in uris], scenes, reference)
    assert len(set(apart)) > 3  # in other folders


def test_pictures_of_their_own_stay_alone():
    draws, reference = np.random.default_rng(0), make_reference_sample(300, seed=1)
    uris = [f"in/IMG_{number}.jpg" for number in range(200)]
    found = merge_neighbours(np.arange(200), [None] * 200, uris, draws.normal(0, 1, (200, 16)), reference)
    assert len(set(found.tolist())) > 140
