"""Decisions of flows.promote without a model; tests/flows/test_promote.py promotes real ones."""

import pytest

from flows import promote as module
from flows.project.exceptions import ChampionChanged, ProjectBusy
from flows.project.project import Project
from flows.promotion.model_registry import QUESTION_TAG, ROLLED_BACK_TAG, Version

CANDIDATE = module.Candidate("digits", "run", "models:/m", None)


def test_a_winner_serves_and_the_champion_becomes_previous():
    version = Version("digits", 3, "run")
    before = {"champion": 2, "previous": 1, "challenger": 3}
    assert module._compute_aliases(before, version, True) == {"champion": 3, "previous": 2}
    assert module._compute_aliases({"champion": 2, "challenger": 1}, version, True) == {
        "champion": 3, "previous": 2, "challenger": 1}  # fmt: skip
    assert module._compute_aliases({}, version, True) == {"champion": 3}


def test_a_loser_becomes_the_challenger_and_nothing_else_moves():
    version = Version("digits", 3, "run")
    before = {"champion": 2, "previous": 1, "challenger": 1}
    assert module._compute_aliases(before, version, False) == {"champion": 2, "previous": 1, "challenger": 3}


@pytest.fixture
def decided(monkeypatch):
    """A registry in which version 2 serves; yields a function that promotes, and what was done."""
    done: list[str] = []
    champions = [Version("digits", 2, "other", "because")]

    def decide(candidate, champion, gate_result, project):
        assert gate_result == "judged" and isinstance(project, Project)
        done.append(f"decide {champion.number if champion else None}")
        if len(champions) > 1:
            champions.pop(0)
            raise ChampionChanged("moved")
        return f"decided against {champion.number}"

    def evaluate(candidate, champion, project, override):
        assert override in (None, "I say so") and isinstance(project, Project)
        done.append(f"evaluate {champion.number}")
        return "judged"

    monkeypatch.setattr(module, "find_champion", lambda name, project: {"digits": champions[0]}[name])
    monkeypatch.setattr(module, "find_candidate", lambda run_id, project: {"run": CANDIDATE}[run_id])
    monkeypatch.setattr(module, "evaluate", evaluate)
    monkeypatch.setattr(module, "decide", decide)
    monkeypatch.setattr(module, "_build_question", lambda champion, project: f"against {champion.number}")
    return done, champions


def compare(folder, candidate=CANDIDATE, override=None):
    return module.compare_and_decide(candidate, Project(folder), override)


def test_a_champion_that_changes_during_the_comparison_is_compared_with_again(decided, tmp_path):
    done, champions = decided
    champions.append(Version("digits", 4, "another"))
    assert compare(tmp_path) == "decided against 4"
    assert done == ["evaluate 2", "decide 2", "evaluate 4", "decide 4"]


def test_a_champion_that_changes_each_time_ends_the_promotion(decided, tmp_path):
    done, champions = decided
    champions += [Version("digits", number, "another") for number in range(3, 30)]
    with pytest.raises(ProjectBusy, match=r"changed .* times during the comparison"):
        compare(tmp_path)
    assert done.count("decide 2") == 1 and 2 <= len(done) / 2 < 10


@pytest.mark.parametrize(
    ("number", "tags", "serves", "is_new"),
    [
        (2, {}, True, False),  # it is the champion
        (3, {QUESTION_TAG: "against 2"}, False, False),  # the same question
        (3, {QUESTION_TAG: "against 1"}, None, True),
        (3, {ROLLED_BACK_TAG: "too slow"}, False, False),
    ],
)
def test_a_question_that_was_decided_is_not_asked_again(decided, tmp_path, number, tags, serves, is_new):
    candidate = module.Candidate("digits", "run", "models:/m", Version("digits", number, "run", "because", tags))
    result = compare(tmp_path, candidate)
    if is_new:
        assert result == "decided against 2"
        return
    assert (result.serves, result.is_new, result.version.number) == (serves, False, number)
    assert result.reason == tags.get(ROLLED_BACK_TAG, "because") and decided[0] == []
    if number != 2:
        assert compare(tmp_path, candidate, override="I say so") == "decided against 2"
