"""What all pages of a server share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request

from orchestrator.web.guard import Changes
from orchestrator.web.reading import Reading


class OtherPages(Protocol):
    """MLflow's pages, which are another server's."""

    def address(self, sweep: str | None) -> str | None:
        """Where they answer; None while they start.

        Args:
            sweep: Opened on the trials of this sweep.

        Raises:
            UserError: They cannot be shown; the message says why.
        """
        ...


@dataclass(frozen=True)
class Site:
    """The parts of a server."""

    reading: Reading
    changes: Changes
    mlflow: OtherPages | None = None
    tracking_uri: str | None = None
    """Where MLflow records, as the user gave it; None: as each sweep says."""

    def common(self, request: Request, section: str) -> dict[str, Any]:
        """What every page is given.

        Args:
            request: The page's.
            section: The part of the site that it belongs to.

        Returns:
            Values by name.
        """
        let_in = self.changes.knows(request)
        return {
            "section": section,
            "storage": str(self.reading.storage),
            "mlflow": self.mlflow is not None,
            "changes": let_in,
            "may_change": self.changes.allowed,
            "token": self.changes.token if let_in else "",
        }
