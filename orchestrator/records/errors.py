"""What is wrong with a journal, a model folder or MLflow, in messages for people."""

from __future__ import annotations

from orchestrator.system.user_error import UserError


class JournalError(UserError, RuntimeError):
    """A journal that cannot be used; the message says why and what to do."""


class TrackingError(UserError, RuntimeError):
    """MLflow cannot be reached or refused; the message says which, where, and what is safe."""


class MissingRunError(TrackingError):
    """MLflow does not hold a run that the journal knows, since it lags behind."""


class ModelFolderError(UserError, ValueError):
    """A model folder that is not whole; the message names the file and what is wrong."""


class UnknownModelError(UserError, ValueError):
    """A reference to a model that the registry does not hold; the message names what it holds."""


class AdapterFolderError(UserError, ValueError):
    """A folder that holds no adapter in safetensors."""


class RegistryError(TrackingError):
    """A registry that cannot be read, or a change that it refuses; the message says why."""
