"""Exceptions of the flows.

UserError (imageset)       one line for the user, exit status 2
├── StageFailed            a DVC stage failed; carries the exit status of `convoy`
├── ProjectBusy            another run is at work in this project
├── ChampionChanged        another model became champion during a comparison
├── NoChampion             no registered model can predict
└── BrokenManifest         data/normalized/dataset.json is damaged
ConnectionError
└── ServerUnavailable      MLflow's server does not answer; the only exception of ours that is retried
"""

from __future__ import annotations

from imageset.exceptions import EXIT_STATUS, UserError


class StageFailed(UserError):
    """A stage of dvc.yaml failed.

    Attributes:
        status: the exit status for the command.
    """

    def __init__(self, message: str, status: int = EXIT_STATUS) -> None:
        super().__init__(message)
        self.status = status


class ProjectBusy(UserError):
    """Another run holds the project."""


class ChampionChanged(UserError):
    """The champion is not the model that the candidate was compared with."""


class NoChampion(UserError):
    """No model has the alias `champion`."""


class ServerUnavailable(ConnectionError):
    """A server does not answer at the moment."""


class BrokenManifest(UserError):
    """A field of data/normalized/dataset.json is missing or invalid."""
