from imageset.splits.placement import warn_small_classes


def count(**classes: tuple[int, int, int]) -> dict[str, dict[str, int]]:
    """Numbers of pictures in train, val and test, by class."""
    splits = ("train", "val", "test")
    return {split: {name: numbers[i] for name, numbers in classes.items()} for i, split in enumerate(splits)}


def test_classes_that_cannot_be_learned_or_are_not_measured_are_warned_about_whatever_the_limit_is():
    counts = count(ant=(9, 3, 3), bee=(9, 3, 0), cow=(0, 2, 1), dog=(0, 0, 0))
    assert warn_small_classes(counts, min_test=0) == [
        "1 class has no pictures at all, and cannot be learned: dog",
        "1 class has pictures in val or test but none in train, and cannot be learned: cow 3; add training "
        "pictures, or leave out these",
        "1 class has no test pictures, so nothing measures them: bee",
    ]


def test_only_classes_that_have_test_pictures_have_too_few_of_them():
    counts = count(ant=(9, 3, 5), bee=(9, 3, 4), cow=(9, 3, 0))
    assert warn_small_classes(counts, min_test=5)[1:] == [
        "fewer than 5 test pictures in 1 class: bee 4; their accuracy says little"
    ]
    assert warn_small_classes(count(ant=(9, 3, 5)), min_test=5) == []
