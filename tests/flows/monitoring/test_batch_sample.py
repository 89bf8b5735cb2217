import numpy as np

from flows.monitoring.batch_log import to_short_id
from flows.monitoring.batch_sample import sample_new_images


def make_rows(numbers: range, status: str = "ok") -> list[dict]:
    return [{"uri": f"{n}.png", "image_id": f"{n:064x}"[::-1], "status": status} for n in numbers]


def ids_of(rows: list[dict]) -> np.ndarray:
    return np.unique(np.array([to_short_id(row["image_id"], row["uri"]) for row in rows], np.uint64))


def test_pictures_that_were_judged_or_learned_from_are_left_out():
    rows, params = make_rows(range(1, 41)), {"pictures": 10, "seed": 0}
    sample = sample_new_images(rows, ids_of(rows[:5]), ids_of(rows[3:20]), params)
    np.testing.assert_array_equal(sample.ids, ids_of(rows[20:]))
    assert (sample.num_trained, sample.num_errors, len(sample.rows)) == (17, 0, 10)
    assert {row["uri"] for row in sample.rows} <= {row["uri"] for row in rows[20:]}
    again = sample_new_images(rows[::-1], ids_of(rows[:5]), ids_of(rows[3:20]), params)
    assert {row["uri"] for row in again.rows} == {row["uri"] for row in sample.rows}


def test_equal_pictures_count_once_and_unreadable_ones_are_sampled_as_well():
    rows, errors = make_rows(range(1, 5)), make_rows(range(50, 90), "error")
    nothing = np.empty(0, np.uint64)
    sample = sample_new_images([*rows, *rows, *errors], nothing, nothing, {"pictures": 10, "seed": 0})
    assert (len(sample.ids), len(sample.rows), sample.num_errors, len(sample.error_uris)) == (44, 4, 40, 10)
