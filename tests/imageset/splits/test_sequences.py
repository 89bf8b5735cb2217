"""Which styles of file names mean sequences; the images are perceptual hashes here."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from imageset.splits.sequence_names import add_sequence_names
from imageset.splits.sequences import Sequences, find_sequences

RNG = np.random.default_rng(0)


def draw_scenes(num: int, num_frames: int, num_bits: int = 3) -> np.ndarray:
    """Hashes of `num` scenes with `num_frames` frames each; a frame differs from its scene by a few bits."""
    scenes = np.repeat(RNG.integers(0, 2**63, num, dtype=np.uint64), num_frames)
    for _ in range(num_bits):
        scenes ^= np.uint64(1) << RNG.integers(0, 63, len(scenes)).astype(np.uint64)
    return scenes


def find(
    uris: list[str], phashes: np.ndarray, ingests: list[int] | None = None, *, multi: bool = False
) -> Sequences:
    num = len(uris)
    rows = pa.table(
        {
            "uri": uris,
            "label": [uri.partition("/")[0] for uri in uris],
            "group": pa.nulls(num, pa.string()),
            "split": pa.nulls(num, pa.string()),
            "ingest": pa.array(ingests or [0] * num, pa.int32()),
        }
    )
    return find_sequences(add_sequence_names(rows), phashes, multi)


def list_tracks(num_tracks: int = 4, num_frames: int = 6, name: str = "{track:05d}_{frame:05d}.ppm") -> list[str]:
    return [
        f"{label}/{name.format(track=track, frame=frame)}"
        for label in ("ant", "bee")
        for track in range(num_tracks)
        for frame in range(num_frames)
    ]


def test_frames_that_look_alike_are_sequences_and_said_in_one_line() -> None:
    found = find(list_tracks(), draw_scenes(8, 6))
    assert found.is_member.all()
    assert found.describe() == "8 sequences of about 6 frames, by file name"


def test_the_same_names_of_pictures_that_do_not_look_alike_are_none() -> None:
    found = find(list_tracks(), RNG.integers(0, 2**63, 48, dtype=np.uint64))
    assert not found.is_member.any() and found.describe() == ""


def test_neighbours_alone_that_look_alike_are_a_roll_of_photographs_and_no_sequence() -> None:
    """Each picture looks like the next one, and those further away do not."""
    pairs = np.repeat(RNG.integers(0, 2**63, 400, dtype=np.uint64), 2)
    found = find(list_tracks(4, 100, "{track}_{frame:04d}.jpg"), pairs)
    assert not found.is_member.any()


@pytest.mark.parametrize("name", ["IMG_{0:04d}.jpg", "{0:04d}.png", "pet.{0}.jpg", "{0:05d}.png"])
def test_plain_numbers_are_no_sequence_even_if_neighbours_look_alike(name: str) -> None:
    uris = [f"{label}/{name.format(number)}" for label in ("ant", "bee", "cat") for number in range(60)]
    assert not find(uris, draw_scenes(9, 20)).is_member.any()


@pytest.mark.parametrize(
    "name", ["v{track}_frame_{frame}.png", "clip-{track}/{frame:04d}.png", "slide{track}_x{frame}_y7.png"]
)
def test_words_in_the_names_suffice_where_each_class_has_three(name: str) -> None:
    unlike = RNG.integers(0, 2**63, 96, dtype=np.uint64)
    assert find(list_tracks(3, 6, name), unlike[:36]).num == 6
    assert find(list_tracks(2, 6, name), unlike[:24]).num == 0  # too few for train, val and test


def test_a_class_of_one_long_video_is_no_group() -> None:
    uris = [f"{label}/video1_frame_{number}.png" for label in ("ant", "bee") for number in range(50)]
    assert find(uris, draw_scenes(2, 50)).num == 0


def test_labels_are_no_condition_where_an_image_has_several() -> None:
    uris = [f"{number % 7}/../v{number // 6}_frame_{number % 6}.png".replace("/..", "") for number in range(24)]
    assert find([f"x/{uri.partition('/')[2]}" for uri in uris], draw_scenes(4, 6), multi=True).num == 4


def test_the_decision_is_made_by_the_images_that_came_first_and_stays() -> None:
    uris, phashes = list_tracks(), draw_scenes(8, 6)
    unlike = RNG.integers(0, 2**63, 48, dtype=np.uint64)
    more = [uri.replace("/000", "/001") for uri in uris]
    found = find(uris + more, np.concatenate([phashes, unlike]), [0] * 48 + [1] * 48)
    assert found.is_member.all()  # the later ones do not change it
    found = find(uris + more, np.concatenate([unlike, phashes]), [0] * 48 + [1] * 48)
    assert not found.is_member[:48].any()  # the first ones stay single whatever comes


def test_fewer_than_twice_the_images_are_no_reason_to_decide_again() -> None:
    uris, unlike = list_tracks(), RNG.integers(0, 2**63, 48, dtype=np.uint64)
    more = [uri.replace("/000", "/001") for uri in uris[:42]]
    found = find(uris + more, np.concatenate([unlike, draw_scenes(7, 6)]), [0] * 48 + [1] * 42)
    assert not found.is_member.any()


def test_images_that_double_the_number_are_a_reason_to_decide_again() -> None:
    few, uris = ["ant/00000_00000.ppm", "ant/00000_00001.ppm"], list_tracks(8)
    phashes = draw_scenes(16, 6)
    found = find(few + uris, np.concatenate([phashes[:2], phashes]), [0, 0] + [1] * 96)
    assert found.is_member.tolist() == [False, False] + [True] * 96
    later = find(few + uris + ["ant/00000_00099.ppm"], np.concatenate([phashes[:2], phashes, phashes[:1]]),
                 [0, 0] + [1] * 96 + [2])  # fmt: skip
    assert later.is_member.tolist() == [False, False] + [True] * 97


def test_photographs_whose_names_are_ids_are_no_sequences() -> None:
    draws = np.random.default_rng(0)
    uris = sorted(
        f"{label}/{draws.integers(10**8, 5 * 10**10)}_{draws.bytes(5).hex()}{draws.choice(['', '_n', '_m'])}.jpg"
        for label in ("daisy", "rose", "tulip")
        for _ in range(300)
    )
    assert not find(uris, draw_scenes(len(uris), 1)).is_member.any()
