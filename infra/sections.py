"""The sections of a stack's configuration as frozen models, each with the rules that hold within it."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from infra.values import Cpu, Image, Memory, Name, Port, Prefix

WIRED_ENV = re.compile(r"^(REDIS_|SESSION_|API_|NODE_ENV$|AUTH_ENV$|TRUST_PROXY$|SHUTDOWN_DELAY_MS$)")
"""Names of the API's environment that the wiring sets itself (`wiring.py`); `api.env` may not set them."""


class Model(BaseModel):
    """Camel case in the stack file; unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


class Storage(Model):
    """The volume of an append-only Redis."""

    size: Memory = "1Gi"
    class_name: str | None = None
    retain: bool = True
    """Keep the volume claims when the stack is destroyed."""


class Redis(Model):
    """Which Redis, and how it keeps its data."""

    mode: Literal["standalone", "sentinel", "external"] = "standalone"
    image: Image | None = None
    replicas: int = Field(default=3, ge=3, le=7)
    """Sentinel mode: Redis pods, each with a Sentinel beside it."""
    proxy_image: Image | None = None
    """Sentinel mode: HAProxy, which leads clients to the master."""
    proxy_replicas: int = Field(default=2, ge=1, le=10)
    service: Name = "redis"
    """The Service that clients connect to."""
    name: Name | None = None
    """Of the StatefulSet, of all that is derived from it and of the pods' label `app`; null: as the Service."""
    adoption: Literal["beside", "door"] | None = None
    """How far `ops adopt` is, which writes it: Redis stands beside another one; the Service leads to the door."""
    host: str | None = None
    """External mode: the managed Redis's host name."""
    port: Port = 6379
    username: str | None = Field(default=None, min_length=1)
    database: int = Field(default=0, ge=0, le=15)
    appendonly: bool = True
    storage: Storage = Storage()
    memory: Memory = "256Mi"
    """The container's memory limit; maxmemory is derived from it (`redis/conf.py`)."""
    cpu: Cpu = "100m"
    run_as_user: int | None = Field(default=999, ge=1)
    """null lets the platform choose (OpenShift)."""

    @property
    def app(self) -> str:
        """`name`, or what stands in for it."""
        return self.name or self.service

    @model_validator(mode="after")
    def _mode_fits(self) -> Redis:
        if self.mode == "external" and not self.host:
            raise ValueError("host: is missing; external mode needs the host name of the managed Redis in redis.host")
        if self.mode != "external" and not self.image:
            raise ValueError("image: is missing; set it to NAME@sha256:<digest>")
        for key in ("host", "username"):
            if self.mode != "external" and getattr(self, key):
                raise ValueError(f"{key}: is for mode external only; remove it or set redis.mode to external")
        if self.mode == "external" and self.image:
            raise ValueError("image: is not for mode external; remove it, an external Redis runs no pod of ours")
        if self.mode == "sentinel" and not self.proxy_image:
            raise ValueError("proxyImage: is missing; set it to HAProxy's NAME@sha256:<digest>, 2.6 or newer")
        if self.adoption and (self.mode != "standalone" or (self.adoption == "door" and self.app == self.service)):
            raise ValueError(
                "adoption: needs redis.mode standalone (go to sentinel afterwards), and a door a redis.name other than "
                f"{self.service}, whose pods the Service there is selects"
            )
        if self.replicas % 2 == 0:
            raise ValueError(
                f"replicas: {self.replicas} is even, which gives no more safety than one less: set 3, 5 or 7"
            )
        return self


class Issuer(Model):
    """A cert-manager issuer."""

    name: Name
    kind: Literal["Issuer", "ClusterIssuer"] = "ClusterIssuer"


class Tls(Model):
    """Where the certificate comes from: an existing Secret (tls.crt, tls.key, ca.crt) or a cert-manager issuer."""

    enabled: bool = True
    secret_name: Name | None = None
    issuer: Issuer | None = None
    server_name: str | None = None
    """External mode: the name to verify when it is not `redis.host`."""


class Sessions(Model):
    """What express-session does."""

    store: Literal["redis", "memory"] = "redis"
    prefix: Prefix = "ctmd:sess:"
    ttl_seconds: int = Field(default=12 * 60 * 60, ge=60, le=90 * 24 * 60 * 60)
    same_site: Literal["lax", "strict"] = "lax"
    secure_cookie: bool | None = None
    """The cookie's Secure flag; null: on when `api.nodeEnv` is production."""
    cookie_name: str = Field(default="connect.sid", pattern=r"^[A-Za-z0-9._-]+$")
    wait_replicas: int = Field(default=0, ge=0, le=6)
    """Sentinel mode: replicas that must have a new session before the login is answered; 0: answered at once."""
    wait_timeout_ms: int = Field(default=500, ge=10, le=10_000)
    """The longest such wait."""
    request_budget_ms: int = Field(default=4000, ge=0, le=60_000)
    """How long a request may be held, and retried, while Redis changes over; 0: it is refused at once."""


class Autoscaling(Model):
    """A HorizontalPodAutoscaler for the API."""

    min_replicas: int = Field(default=2, ge=1)
    max_replicas: int = Field(ge=1, le=100)
    cpu_percent: int = Field(default=70, ge=10, le=100)

    @model_validator(mode="after")
    def _ordered(self) -> Autoscaling:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"maxReplicas: {self.max_replicas} is below minReplicas {self.min_replicas}; raise it")
        return self


class Api(Model):
    """The API: a Deployment of ours, or the wiring of one that exists."""

    image: Image | None = None
    existing_deployment: Name | None = None
    """Name of a Deployment that somebody else (Helm) owns; only the wiring is patched onto it."""
    container: Name = "api"
    replicas: int = Field(default=2, ge=1, le=100)
    autoscaling: Autoscaling | None = None
    port: Port = 3030
    node_port: int | None = Field(default=None, ge=30000, le=32767)
    node_env: Literal["production", "development"] = "production"
    auth_env: Literal["production", "development"] = "production"
    trust_proxy: str | None = None
    """Express's `trust proxy`: a hop count, or names and subnets of the proxies in front."""
    env: dict[str, str] = {}
    memory: Memory = "256Mi"
    cpu: Cpu = "100m"
    run_as_user: int | None = Field(default=1000, ge=1)

    @model_validator(mode="after")
    def _ours_or_theirs(self) -> Api:
        if not self.image and not self.existing_deployment:
            raise ValueError(
                "image: is missing; set it to NAME@sha256:<digest>, or wire an existing one: api.existingDeployment"
            )
        if self.image and self.existing_deployment:
            raise ValueError(
                "image: excludes api.existingDeployment, whose owner chooses the image; remove one of the two"
            )
        if self.existing_deployment and (self.autoscaling or self.node_port):
            raise ValueError(
                "existingDeployment: leaves autoscaling and nodePort to the Deployment's owner; remove those"
            )
        wired = sorted(key for key in self.env if WIRED_ENV.match(key))
        if wired:
            raise ValueError(
                f"env: may not set {', '.join(wired)}, which the wiring sets; use the settings redis, sessions and api"
            )
        return self


class Credentials(Model):
    """Names of the Secrets. In external mode the password's Secret exists and is only read."""

    password_secret: Name = "redis-secret"  # noqa: S105 - a Secret's name
    session_secret: Name = "api-session-secret"  # noqa: S105 - a Secret's name
    create_session_secret: bool = True
    """false: the Secret exists (Helm made it) and is only read; a new one would log everybody out."""
    generation: int = Field(default=1, ge=1)
    """Raise it to have new values generated; of the password and the session secret, unless they say their own."""
    password_generation: int | None = Field(default=None, ge=1)
    session_generation: int | None = Field(default=None, ge=1)
    oldest_password: int | None = Field(default=None, ge=1)
    """The oldest password that is still valid; null: the one before the present one. Raise it to revoke."""
    oldest_session: int | None = Field(default=None, ge=1)
    """The oldest session secret whose cookies are still valid; null: the one before the present one."""

    @property
    def passwords(self) -> list[int]:
        """The valid generations of the password, the present one first."""
        return _valid(self.password_generation or self.generation, self.oldest_password)

    @property
    def session_secrets(self) -> list[int]:
        """The valid generations of the session secret, the one that signs first."""
        return _valid(self.session_generation or self.generation, self.oldest_session)

    @model_validator(mode="after")
    def _generations_fit(self) -> Credentials:
        passwords, sessions = self.password_generation or self.generation, self.session_generation or self.generation
        for key, oldest, newest in (
            ("oldestPassword", self.oldest_password, passwords),
            ("oldestSession", self.oldest_session, sessions),
        ):
            if oldest and oldest > newest:
                raise ValueError(f"{key}: {oldest} is above generation {newest}; nothing would be valid: lower it")
        if self.oldest_password and self.oldest_password < passwords - 1:
            raise ValueError(
                f"oldestPassword: {self.oldest_password} would keep more than two passwords valid; "
                f"set {passwords - 1} or {passwords}, or remove it"
            )
        return self


def _valid(newest: int, oldest: int | None) -> list[int]:
    return list(range(newest, (oldest or max(newest - 1, 1)) - 1, -1))


class Network(Model):
    """NetworkPolicies around our pods."""

    policies: bool = True
    api_egress_ports: list[Port] = []
    """Further TCP ports the API may reach anywhere (its login provider, its database)."""


class Metrics(Model):
    """How Prometheus finds and reaches the pods."""

    enabled: bool = True
    """Scrape annotations on the pods, and the exporter."""
    exporter_image: Image | None = None
    """redis_exporter, 1.45 or newer, with a shell; runs beside each Redis. null: Redis tells nothing."""
    scrape_namespace: Name | None = "monitoring"
    """Whose pods the NetworkPolicies let scrape; null: anybody."""
    pod_monitors: bool = False
    """PodMonitor objects, for the Prometheus Operator."""
    rules: bool = False
    """The alerts: a PrometheusRule beside PodMonitors, else a ConfigMap with the rule file."""
    dashboard: bool = False
    """The dashboard, in a ConfigMap that Grafana's sidecar finds."""
    runbook: str = Field(default="docs/runbook.md", min_length=1)
    """Where alerts link to: the address that the runbook has for whoever is on call."""

    @property
    def exporter(self) -> str | None:
        """The exporter's image, where it runs."""
        return self.exporter_image if self.enabled else None

    @model_validator(mode="after")
    def _fits(self) -> Metrics:
        if self.pod_monitors and not self.enabled:
            raise ValueError("podMonitors: there is nothing to find while metrics.enabled is false; remove one of them")
        if self.rules and not self.enabled:
            raise ValueError("rules: there is nothing to watch while metrics.enabled is false; remove one of them")
        return self


class Backup(Model):
    """Backups on a schedule, into a volume of their own."""

    schedule: str | None = Field(default=None, pattern=r"^(\S+ ){4}\S+$")
    """Cron text, in UTC; null: none."""
    claim_size: Memory = "1Gi"
    keep: int = Field(default=7, ge=1, le=1000)
    """How many backups stay."""


class Verify(Model):
    """How `ops verify` logs in."""

    login_path: str = Field(default="/auth", pattern=r"^/")
    login_secret: Name | None = None
    """A Secret whose key `body` is the JSON body of the login request; null: an empty body (AUTH_ENV development)."""
