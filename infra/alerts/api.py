"""Alerts about the API and its sessions, and about what no pod of ours tells."""

from __future__ import annotations

from collections.abc import Iterator

from kubernetes.utils.quantity import parse_quantity

from infra import backup, cron
from infra.alerts.model import Alert, Severity
from infra.series import PEOPLE, REFUSED, Series
from infra.settings import PROJECT, Settings, wrong
from infra.values import MIB

LASTING = "wrongpass|noauth|noperm|tls|oom|misconf|other"
"""Reasons that no retry mends (services/api/session-store.js); the first four pass with a rotation."""


def of_api(settings: Settings) -> Iterator[Alert]:
    """What the API's pods tell."""
    api = Series(settings.namespace).api
    connected = api("session_store_connected")
    yield Alert(
        "SessionStoreUnusable",
        "critical",
        f"max({connected}) == 0",
        "1m",
        "No API pod can use the session store",
        "{{ $value }} API pods are connected: nobody can log in, and whoever is logged in gets 503.",
    )
    yield Alert(
        "SessionStoreNotConnected",
        "warning",
        f"{connected} == 0",
        "5m",
        "An API pod cannot use the session store",
        "{{ $labels.pod }} is not connected ({{ $value }}) and gets no requests while it is not.",
    )
    yield Alert(
        "SessionStorePasswordHalfRotated",
        "warning",
        f"count(count by (session_store_password_generation) ({connected})) > 1",
        "30m",
        "A rotation of the password stopped half-way",
        "The API's pods have {{ $value }} generations of the password. The old one is still valid.",
    )
    replies = api("http_request_duration_seconds_count", PEOPLE)
    refused = api("http_request_duration_seconds_count", REFUSED)
    levels: tuple[tuple[str, float, Severity, str], ...] = (
        ("SessionStoreRequestsFailing", 0.05, "critical", "2m"),
        ("SessionStoreSomeRequestsFailing", 0.005, "warning", "10m"),
    )
    for name, share, severity, hold in levels:
        yield Alert(
            name,
            severity,
            f"sum(rate({refused}[5m])) / sum(rate({replies}[5m])) > {share}",
            hold,
            "Requests get 503",
            "{{ $value | humanizePercentage }} of the requests of the last 5 minutes got 503.",
        )
    errors = api("session_store_errors_total", 'operation!~"connect|ping"')
    yield Alert(
        "SessionStoreErrors",
        "warning",
        f"sum by (reason) (rate({errors}[5m])) > 0.05",
        "10m",
        "Session operations fail",
        "{{ $value | humanize }} operations a second fail for good: {{ $labels.reason }}.",
    )
    lasting = api("session_store_errors_total", f'reason=~"{LASTING}"')
    yield Alert(
        "SessionStoreRefused",
        "critical",
        f"sum by (reason) (increase({lasting}[5m])) > 0",
        "5m",
        "Redis refuses the API for a reason that will not pass",
        "{{ $value | humanize }} refusals in 5 minutes: {{ $labels.reason }}.",
    )
    operations = api("session_store_operation_duration_seconds_count")
    retries = f"sum(rate({api('session_store_retries_total')}[5m]))"
    yield Alert(
        "SessionStoreRetries",
        "warning",
        f"{retries} / sum(rate({operations}[5m])) > 0.1 and {retries} > 0.2",
        "5m",
        "Session operations are tried again and again",
        "{{ $value | humanizePercentage }} of the session operations needed another try: people wait.",
    )
    buckets = api("session_store_operation_duration_seconds_bucket")
    yield Alert(
        "SessionStoreSlow",
        "warning",
        f"histogram_quantile(0.99, sum by (le, operation) (rate({buckets}[5m]))) > 0.25",
        "10m",
        "Session operations are slow",
        "One in a hundred `{{ $labels.operation }}` takes longer than {{ $value | humanizeDuration }}.",
    )
    yield Alert(
        "SessionStoreApiStalls",
        "warning",
        f"{api('nodejs_eventloop_lag_p99_seconds')} > 0.5",
        "10m",
        "The API's event loop stalls",
        "{{ $labels.pod }} serves nobody for {{ $value | humanizeDuration }} at a time: CPU is short, or code blocks.",
    )
    created = api("session_store_sessions_created_total")
    now, day = f"sum(rate({created}[10m]))", f"sum(rate({created}[1d] offset 1h))"
    yield Alert(
        "SessionStoreLoginsUnusual",
        "warning",
        f"{now} > 10 * {day} and {now} > 1",
        "15m",
        "Far more new sessions than usual",
        "{{ $value | humanize }} sessions a second are made, over ten times the last day's mean: "
        "a crawler, an attack, or clients that lose their cookie.",
    )
    if settings.sessions.wait_replicas:
        yield Alert(
            "SessionStoreReplicasUnacknowledged",
            "warning",
            f"sum(increase({api('session_store_wait_replicas_timeouts_total')}[5m])) > 5",
            "5m",
            "Replicas acknowledge new sessions late",
            "{{ $value | humanize }} logins in 5 minutes waited longer than "
            f"{settings.sessions.wait_timeout_ms} ms for {settings.sessions.wait_replicas} replicas.",
        )
    if settings.tls.enabled:
        yield from _certificate(settings)
    yield from _memory(settings)


def _certificate(settings: Settings) -> Iterator[Alert]:
    left = f"min({Series(settings.namespace).api('session_store_certificate_expiry_timestamp_seconds')}) - time()"
    levels: tuple[tuple[str, str, Severity, str], ...] = (
        ("SessionStoreCertificateEnds", f"{left} < {21 * 86400} and {left} >= {7 * 86400}", "warning", "1h"),
        ("SessionStoreCertificateEndsSoon", f"{left} < {7 * 86400} and {left} > 0", "critical", "1h"),
    )
    for name, expr, severity, hold in levels:
        text = "It ends in {{ $value | humanizeDuration }}. After that no API pod connects any more."
        yield Alert(name, severity, expr, hold, "Redis's certificate ends soon", text)
    yield Alert(
        "SessionStoreCertificateExpired",
        "critical",
        f"{left} <= 0",
        "0m",
        "Redis's certificate has ended",
        "It ended {{ $value | humanizeDuration }} from now: connections that break are not made again.",
    )


def _memory(settings: Settings) -> Iterator[Alert]:
    """The limit of somebody else's Deployment is not ours to know."""
    resident = Series(settings.namespace).api("process_resident_memory_bytes")
    limit = None if settings.api.existing_deployment else int(parse_quantity(settings.api.memory))
    if limit:
        yield Alert(
            "SessionStoreApiMemoryHigh",
            "warning",
            f"{resident} / {limit} > 0.85",
            "10m",
            "The API is near its memory limit",
            f"{{{{ $labels.pod }}}} uses {{{{ $value | humanizePercentage }}}} of {limit // MIB} MiB; past that it is "
            "killed. Sessions are in Redis and stay.",
        )
    now, before = (f"min_over_time({resident}[1h]{ago})" for ago in ("", " offset 6h"))
    yield Alert(
        "SessionStoreApiMemoryGrows",
        "warning",
        f"{now} > 1.5 * {before} and {now} > {(limit or 512 * MIB) // 2}",
        "30m",
        "The API's memory grows",
        "{{ $labels.pod }} never used less than {{ $value | humanize1024 }}B in the last hour, half as much again as "
        "6 hours before. With the sessions in Redis it should be flat.",
    )


def of_targets(settings: Settings) -> Iterator[Alert]:
    """Whether there is anything to see."""
    series = Series(settings.namespace)
    who = {"the API": series.api("up")}
    if settings.metrics.exporter:
        who["Redis"] = series.redis("up")
    if settings.redis.mode == "sentinel":
        who["the proxies"] = series.proxy("up")
    yield Alert(
        "SessionStoreTargetDown",
        "warning",
        " or ".join(f"{up} == 0" for up in who.values()),
        "5m",
        "Prometheus cannot reach a pod",
        "{{ $labels.pod }} does not answer Prometheus (up is {{ $value }}): nothing is known of it.",
    )
    gone = (f'label_replace(absent({up}), "part", "{name}", "", "")' for name, up in who.items())
    yield Alert(
        "SessionStoreNotWatched",
        "warning",
        " or ".join(gone),
        "10m",
        "Prometheus finds no pod",
        "Prometheus knows no pod of {{ $labels.part }} ({{ $value }} part is not watched): "
        "its alerts are silent, whatever happens.",
    )


def of_backups(settings: Settings) -> Iterator[Alert]:
    """What kube-state-metrics tells of the CronJob; where it does not run, nothing.

    Raises:
        SettingsError: the schedule is no cron text.
    """
    if settings.backup.schedule is None:
        return
    try:
        gap = cron.longest_gap(settings.backup.schedule) * 60
    except ValueError as error:
        raise wrong([f"{PROJECT}:backup.schedule: {error}"]) from None
    series, job = Series(settings.namespace), f'cronjob="{backup.app(settings)}"'
    last = (
        f"max(max by (cronjob) ({series.of('kube_cronjob_status_last_successful_time', job)}) "
        f"or max by (cronjob) ({series.of('kube_cronjob_created', job)}))"
    )
    yield Alert(
        "SessionStoreBackupTooOld",
        "warning",
        # A run may take as long as its deadline; then as long again for one that was late.
        f"time() - {last} > {gap + 2 * backup.DEADLINE}",
        "5m",
        "The last backup is too old",
        f"No backup succeeded for {{{{ $value | humanizeDuration }}}}; the schedule is {settings.backup.schedule}.",
    )
