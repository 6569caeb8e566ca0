"""`python -m ops alerts` and `ops dashboard`: what a Prometheus or Grafana of one's own is given."""

from __future__ import annotations

import json
import sys

import yaml

from infra.settings import SettingsError
from ops import workspace
from ops.console import Stack
from ops.errors import OpsError


def alerts(stack: Stack = workspace.DEV) -> None:
    """Print the stack's alerts as a Prometheus rule file (`promtool check rules` takes it)."""
    from infra import alerts as rendered

    settings = workspace.declared(workspace.find(stack))
    try:
        rules = rendered.rules(settings)
    except SettingsError as error:
        raise OpsError(str(error)) from None
    if not rules["groups"]:
        raise OpsError(f"Stack {stack} has metrics.enabled false: there is nothing to watch. Remove that setting.")
    yaml.safe_dump(rules, sys.stdout, sort_keys=False, width=1000)


def dashboard() -> None:
    """Print the Grafana dashboard as JSON, for Grafana's import; one for all stacks."""
    from infra.dashboard import dashboard as drawn

    sys.stdout.write(json.dumps(drawn(), indent=2) + "\n")
