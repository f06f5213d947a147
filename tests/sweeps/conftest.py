"""Fixtures of sweeps."""

import pytest


@pytest.fixture
def report() -> None:
    """For tests that look at the report which a sweep ends with."""


@pytest.fixture(autouse=True)
def _no_report(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the others there is none: drawing it takes longer than their jobs."""
    if "report" not in request.fixturenames:
        monkeypatch.setattr("gan_runner.reporting.writer.print_report", lambda directory: None)
