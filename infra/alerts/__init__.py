"""Alerts as a Prometheus rule file, rendered from a stack's settings. What does not apply to a stack is not there."""

from __future__ import annotations

from typing import Any

from infra.alerts import api, redis
from infra.alerts.model import Alert
from infra.settings import Settings


def alerts(settings: Settings) -> dict[str, list[Alert]]:
    """Group to its alerts."""
    if not settings.metrics.enabled:
        return {}
    sentinel = settings.redis.mode == "sentinel"
    return {
        "session-store-redis": list(redis.of_redis(settings)) if settings.metrics.exporter else [],
        "session-store-proxies": list(redis.of_proxies(settings)) if sentinel else [],
        "session-store-api": list(api.of_api(settings)),
        "session-store-watch": [*api.of_targets(settings), *api.of_backups(settings)],
    }


def rules(settings: Settings) -> dict[str, Any]:
    """The rule file: what `promtool check rules` takes, and a PrometheusRule has as its spec."""
    return {
        "groups": [
            {"name": name, "rules": [alert.rule(settings) for alert in found]}
            for name, found in alerts(settings).items()
            if found
        ]
    }
