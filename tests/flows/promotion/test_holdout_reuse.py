import hashlib
import json

import numpy as np
import pytest

from flows.project.project import Project
from flows.promotion import holdout_reuse, ledger, model_registry
from flows.promotion.holdout_reuse import HoldoutPictures, record_look
from imageset.exceptions import UserError
from lightning_modules.comparison.gain.alpha_spending import compute_share

TOTAL = 0.05


@pytest.fixture
def client(project):
    client = model_registry.connect_registry(Project(project))
    client.create_registered_model("digits")
    return client


def make_pictures(*numbers: int, group_size: int = 1) -> HoldoutPictures:
    """Pictures by number; those of one group follow each other."""
    ids = [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers]
    return HoldoutPictures(ids, np.array(numbers) // group_size)


def look_at(client, project, question: str, pictures: HoldoutPictures, by_hand: bool = False):
    return record_look(client, Project(project), "digits", question, pictures, TOTAL, by_hand)


def read_tags(client) -> dict[str, str]:
    return {key: value for key, value in model_registry.read_model_tags(client, "digits").items() if "look" in key}


def test_each_decision_on_the_same_pictures_may_spend_less(client, project):
    pictures = make_pictures(*range(30))
    looks = [look_at(client, project, f"question {number}", pictures) for number in range(4)]
    assert [look.num_earlier for look in looks] == [0, 1, 2, 3]
    assert [look.tail for look in looks] == pytest.approx([TOTAL * compute_share(number) for number in range(4)])
    assert looks[0].is_unseen.all() and not looks[1].is_unseen.any()


def test_the_looks_of_another_clone_count(client, project, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}")
    other = tmp_path / "other"
    other.mkdir()
    look_at(client, project, "one", make_pictures(*range(30)))
    assert look_at(client, other, "two", make_pictures(*range(30))).num_earlier == 1


def test_a_question_that_is_asked_again_is_no_new_look(client, project):
    pictures = make_pictures(*range(30))
    look_at(client, project, "first", pictures)
    asked = look_at(client, project, "second", pictures)
    again = look_at(client, project, "second", pictures)
    assert (again.num_earlier, again.num_spending) == (asked.num_earlier, asked.num_spending) == (1, 1)
    assert again.tail == asked.tail == pytest.approx(TOTAL / 6)
    assert look_at(client, project, "third", pictures).num_earlier == 2


def test_new_test_pictures_bring_power_back(client, project):
    for number in range(14):
        look_at(client, project, f"question {number}", make_pictures(*range(30)))
    look = look_at(client, project, "with new ones", make_pictures(*range(20), *range(100, 120)))
    assert look.tail == pytest.approx(TOTAL * (compute_share(14) + compute_share(0)) / 2)
    assert look.num_earlier == 14 and look.is_unseen.tolist() == [False] * 20 + [True] * 20
    after = look_at(client, project, "next", make_pictures(*range(20), *range(100, 120)))
    assert after.tail == pytest.approx(TOTAL * (compute_share(15) + compute_share(1)) / 2)


def test_a_new_picture_of_a_used_group_is_not_new(client, project):
    look_at(client, project, "first", make_pictures(0, 1, 10, 11, group_size=10))
    look = look_at(client, project, "second", make_pictures(0, 1, 2, 10, 11, 20, group_size=10))
    assert look.is_unseen.tolist() == [False] * 5 + [True]


def test_a_decision_by_hand_is_a_look_and_spends_nothing(client, project):
    pictures = make_pictures(*range(30))
    look_at(client, project, "by hand", pictures, by_hand=True)
    look = look_at(client, project, "next", pictures)
    assert (look.num_earlier, look.num_spending, look.tail) == (1, 0, TOTAL / 2)


def test_of_very_many_pictures_a_sample_is_kept(client, project, monkeypatch):
    monkeypatch.setattr(holdout_reuse, "MAX_KEPT", 300)
    for number in range(3):
        look_at(client, project, f"question {number}", make_pictures(*range(2000)))
    look = look_at(client, project, "half new", make_pictures(*range(1000), *range(5000, 6000)))
    assert look.tail == pytest.approx(TOTAL * (compute_share(3) + compute_share(0)) / 2, rel=0.15)
    assert 100 < look.is_unseen.sum() < 200 and not look.is_unseen[:1000].any()
    assert sum(map(len, read_tags(client).values())) < 3000
    few = look_at(client, project, "few are left", make_pictures(0, 1))
    assert few.num_earlier >= 3 and few.tail <= TOTAL * compute_share(3)


def test_the_tags_of_thousands_of_pictures_after_a_year_are_bounded(client, project):
    for night in range(0, 365, 73):
        look_at(client, project, f"night {night}", make_pictures(*range(0, 4000 + 10 * night)))
    tags = read_tags(client)
    assert all(len(value) <= 5000 for value in tags.values())
    assert sum(map(len, tags.values())) < 22_000 and len(tags) <= 6


def test_a_process_that_is_killed_while_it_counts_leaves_the_counts_before(client, project, monkeypatch):
    look_at(client, project, "first", make_pictures(*range(30)))
    before, write = read_tags(client), model_registry.set_model_tag

    def die_at_head(client, model, key, value):
        if key == holdout_reuse.LOOKS_TAG:
            raise KeyboardInterrupt
        write(client, model, key, value)

    monkeypatch.setattr(model_registry, "set_model_tag", die_at_head)
    with pytest.raises(KeyboardInterrupt):
        look_at(client, project, "second", make_pictures(*range(60)))
    monkeypatch.undo()
    assert before.items() <= read_tags(client).items()
    look = look_at(client, project, "second", make_pictures(*range(60)))
    assert look.num_earlier == 1 and look.is_unseen.sum() == 30
    assert len(read_tags(client)) == 2


def test_damaged_counts_are_named_with_the_remedy_which_works(client, project):
    look_at(client, project, "first", make_pictures(*range(30)))
    (part,) = [key for key in read_tags(client) if key != holdout_reuse.LOOKS_TAG]
    model_registry.set_model_tag(client, "digits", part, "AAAA")
    with pytest.raises(UserError, match=r"delete the tag convoy\.looks in MLflow"):
        look_at(client, project, "second", make_pictures(*range(30)))
    model_registry.delete_model_tag(client, "digits", holdout_reuse.LOOKS_TAG)
    assert look_at(client, project, "second", make_pictures(*range(30))).num_earlier == 0


def test_comparisons_of_an_earlier_convoy_are_counted_from_the_ledger(client, project):
    for number in (1, 2, 3):
        champion = number - 1 or None
        ledger.append_entry(
            Project(project),
            {"event": ledger.DECISION, "model": "digits", "version": number, "champion": champion},
        )
    look = look_at(client, project, "first with counts", make_pictures(*range(30)))
    assert (look.num_earlier, look.tail) == (2, TOTAL * compute_share(2))
    assert look_at(client, project, "next", make_pictures(*range(30))).num_earlier == 3


def test_no_image_id_is_in_the_registry(client, project):
    pictures = make_pictures(*range(30))
    look_at(client, project, "first", pictures)
    text = json.dumps(read_tags(client))
    assert not any(image_id[:12] in text for image_id in pictures.image_ids)
