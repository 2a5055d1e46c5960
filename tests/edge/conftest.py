"""The API server of tests/kube."""

from tests.kube.conftest import api

__all__ = ["api"]
