"""What a flow may tell a person.

UserError (imageset)     one line, exit status 2
├── StageFailed          a DVC stage ended with an error; carries the status that `convoy` exits with
├── Busy                 somebody else is at work in this project
├── Overtaken            another model became champion while this one was compared
└── NoChampion           nothing is registered that could predict
ConnectionError
└── ServerAway           MLflow's server does not answer; the one error of ours that is retried
"""

from __future__ import annotations

from imageset.exceptions import EXIT_STATUS, UserError


class StageFailed(UserError):
    """A stage of dvc.yaml failed; `status` is what the command should exit with."""

    def __init__(self, message: str, status: int = EXIT_STATUS) -> None:
        super().__init__(message)
        self.status = status


class ProjectBusy(UserError):
    """Another run holds the project."""


class ChampionChanged(UserError):
    """The champion is not the one that the newcomer was compared with."""


class NoChampion(UserError):
    """There is no model with the alias `champion`."""


class ServerUnavailable(ConnectionError):
    """A server that was asked does not answer (yet)."""


class BrokenManifest(UserError):
    """data/normalized/dataset.json does not say what it should."""
