"""Credentials as files of a mounted Secret, read at each use so that rotation needs no restart. Values are never logged."""

from pathlib import Path

_AWS_FILES = {
    "AWS_ACCESS_KEY_ID": "aws_access_key_id",
    "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
    "AWS_SESSION_TOKEN": "aws_session_token",
}


class CredentialFiles:
    """`folder` None: the standard chains of boto3, huggingface_hub and wandb (environment, workload identity, profile)."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read_aws(self) -> dict[str, str]:
        """Arguments for a boto3 client; empty where the standard chain applies."""
        found = {argument: self._read(name) for name, argument in _AWS_FILES.items()}
        return {argument: value for argument, value in found.items() if value is not None}

    def read_hub_token(self) -> str | None:
        return self._read("HF_TOKEN")

    def read_tracking_key(self) -> str | None:
        return self._read("WANDB_API_KEY")

    def _read(self, name: str) -> str | None:
        path = None if self._folder is None else self._folder / name
        return path.read_text().strip() if path is not None and path.exists() else None
