"""The series that alerts and dashboard look at (docs/metrics.md)."""

from __future__ import annotations

from dataclasses import dataclass

PROBES = ("/healthz", "/readyz", "/metrics")
"""What no person asks for."""
PEOPLE = f'route!~"{"|".join(PROBES)}"'
"""Requests of people: neither probes nor scrapes."""
REFUSED = PEOPLE + ',status="503"'


@dataclass(frozen=True)
class Series:
    """Selectors of a stack's series, by who tells them; `more` are further label matchers."""

    namespace: str

    def of(self, metric: str, more: str = "") -> str:
        """Whoever tells it."""
        return f'{metric}{{namespace="{self.namespace}"{"," * bool(more)}{more}}}'

    def redis(self, metric: str, more: str = "") -> str:
        """The exporters beside Redis."""
        return self.of(metric, 'session_store_mode!=""' + "," * bool(more) + more)

    def proxy(self, metric: str, more: str = "") -> str:
        """HAProxy."""
        return self.of(metric, 'app_kubernetes_io_component="proxy"' + "," * bool(more) + more)

    def api(self, metric: str, more: str = "") -> str:
        """The API's pods, a chart's too."""
        return self.of(metric, 'session_store_password_generation!=""' + "," * bool(more) + more)
