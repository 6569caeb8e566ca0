"""Stack configuration as frozen models. `load` is the only reader of `pulumi.Config` in the program.

Every value is written under `session-store:<key>` in Pulumi.<stack>.yaml; every error names that key and the fix.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from infra.values import Cpu, Image, Memory, Name, Port, Prefix

PROJECT = "session-store"
ACCEPTED = "acceptedSessionSecrets"
"""The one key that is a secret: it is not part of `Settings`, which are shown and exported."""
WIRED_ENV = re.compile(r"^(REDIS_|SESSION_|API_|NODE_ENV$|AUTH_ENV$|TRUST_PROXY$|SHUTDOWN_DELAY_MS$)")
"""Names of the API's environment that the wiring sets itself (`wiring.py`); `api.env` may not set them."""


class SettingsError(Exception):
    """The stack configuration is wrong; the message lists every `session-store:<key>` with its fix."""


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


class Storage(_Model):
    """The volume of an append-only Redis."""

    size: Memory = "1Gi"
    class_name: str | None = None
    retain: bool = True
    """Keep the volume claims when the stack is destroyed."""


class Redis(_Model):
    """Which Redis, and how it keeps its data."""

    mode: Literal["standalone", "sentinel", "external"] = "standalone"
    image: Image | None = None
    replicas: int = Field(default=3, ge=3, le=7)
    """Sentinel mode: Redis pods, each with a Sentinel beside it."""
    proxy_image: Image | None = None
    """Sentinel mode: HAProxy, which leads clients to the master."""
    proxy_replicas: int = Field(default=2, ge=1, le=10)
    service: Name = "redis"
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
        if self.replicas % 2 == 0:
            raise ValueError(
                f"replicas: {self.replicas} is even, which gives no more safety than one less: set 3, 5 or 7"
            )
        return self


class Issuer(_Model):
    """A cert-manager issuer."""

    name: Name
    kind: Literal["Issuer", "ClusterIssuer"] = "ClusterIssuer"


class Tls(_Model):
    """Where the certificate comes from: an existing Secret (tls.crt, tls.key, ca.crt) or a cert-manager issuer."""

    enabled: bool = True
    secret_name: Name | None = None
    issuer: Issuer | None = None
    server_name: str | None = None
    """External mode: the name to verify when it is not `redis.host`."""


class Sessions(_Model):
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


class Autoscaling(_Model):
    """A HorizontalPodAutoscaler for the API."""

    min_replicas: int = Field(default=2, ge=1)
    max_replicas: int = Field(ge=1, le=100)
    cpu_percent: int = Field(default=70, ge=10, le=100)

    @model_validator(mode="after")
    def _ordered(self) -> Autoscaling:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"maxReplicas: {self.max_replicas} is below minReplicas {self.min_replicas}; raise it")
        return self


class Api(_Model):
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


class Credentials(_Model):
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


class Network(_Model):
    """NetworkPolicies around our pods."""

    policies: bool = True
    api_egress_ports: list[Port] = []
    """Further TCP ports the API may reach anywhere (its login provider, its database)."""


class Backup(_Model):
    """Backups on a schedule, into a volume of their own."""

    schedule: str | None = Field(default=None, pattern=r"^(\S+ ){4}\S+$")
    """Cron text, in UTC; null: none."""
    claim_size: Memory = "1Gi"
    keep: int = Field(default=7, ge=1, le=1000)
    """How many backups stay."""


class Verify(_Model):
    """How `ops verify` logs in."""

    login_path: str = Field(default="/auth", pattern=r"^/")
    login_secret: Name | None = None
    """A Secret whose key `body` is the JSON body of the login request; null: an empty body (AUTH_ENV development)."""


class Settings(_Model):
    """A stack's whole configuration."""

    namespace: Name = "session-store"
    create_namespace: bool = True
    redis: Redis
    tls: Tls = Tls()
    sessions: Sessions = Sessions()
    api: Api
    credentials: Credentials = Credentials()
    network: Network = Network()
    backup: Backup = Backup()
    verify: Verify = Verify()

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        replicas = self.api.autoscaling.max_replicas if self.api.autoscaling else self.api.replicas
        if self.sessions.store == "memory" and replicas > 1:
            raise ValueError(
                "sessions.store: memory cannot be shared by several pods; set api.replicas to 1 or use redis"
            )
        if self.redis.mode == "external" and self.tls.issuer:
            raise ValueError(
                "tls.issuer: an external Redis brings its own certificate; use tls.secretName for its ca.crt"
            )
        if self.sessions.wait_replicas and self.redis.mode != "sentinel":
            raise ValueError("sessions.waitReplicas: needs replicas; set redis.mode to sentinel or remove this key")
        if self.sessions.wait_replicas >= self.redis.replicas:
            raise ValueError(
                f"sessions.waitReplicas: {self.sessions.wait_replicas} is more than redis.replicas less the master; "
                "lower it, best to 1"
            )
        if self.backup.schedule and self.redis.mode == "external":
            raise ValueError("backup.schedule: an external Redis is backed up by who runs it; remove this key")
        if self.tls.secret_name and not self.tls.enabled:
            raise ValueError(
                "tls.secretName: TLS is off, so the Secret would be ignored; set tls.enabled to true or remove this key"
            )
        return self

    @property
    def tls_secret(self) -> str | None:
        """Name of the Secret with the certificate (external mode: the CA); None: TLS off, or public CAs."""
        if not self.tls.enabled:
            return None
        return self.tls.secret_name or (None if self.redis.mode == "external" else "redis-tls")

    @property
    def cookie_secure(self) -> bool:
        """Whether the session cookie is for HTTPS only."""
        return self.api.node_env == "production" if self.sessions.secure_cookie is None else self.sessions.secure_cookie


def _problem(error: Mapping[str, Any]) -> str:
    """One line for one pydantic error: the configuration key, what is wrong, the fix."""
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        model: type[BaseModel] = Settings
        for part in path[:-1]:
            field = next(f for n, f in model.model_fields.items() if part in (n, f.alias))
            model = next(
                t
                for t in (field.annotation, *getattr(field.annotation, "__args__", ()))
                if isinstance(t, type) and issubclass(t, BaseModel)
            )
        known = [field.alias or name for name, field in model.model_fields.items()]
        near = difflib.get_close_matches(path[-1], known, n=1)
        message = (
            f"unknown key; did you mean {near[0]}?" if near else f"unknown key; known here: {', '.join(sorted(known))}"
        )
    elif error["type"] == "missing":
        message = "is missing: set it in Pulumi.<stack>.yaml"
    elif error["type"] == "value_error" and isinstance(error["input"], dict):
        # A rule over a whole model names the key below it: "host: is missing; ...".
        return f"{PROJECT}:{'.'.join([*path, message])}"
    elif error["type"] != "value_error" and not isinstance(error["input"], dict):
        message = f"{error['input']!r}: {message[0].lower()}{message[1:]}"
    return f"{PROJECT}:{key}: {message}"


def parse(values: Mapping[str, Any]) -> Settings:
    """Validate plain configuration values.

    Args:
        values: top-level keys (camelCase, without the `session-store:` prefix) to plain JSON values.

    Raises:
        SettingsError: naming every wrong key at once.
    """
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        problems = [_problem(e) for e in error.errors(include_url=False)]
        raise SettingsError("The stack configuration is wrong:\n" + "\n".join(f"  - {p}" for p in problems)) from None


def accepted_session_secrets() -> pulumi.Output[str] | None:
    """Another stack's session secrets whose cookies are to be accepted, comma-separated; encrypted in its file."""
    return pulumi.Config(PROJECT).get_secret(ACCEPTED)


def load() -> Settings:
    """The running stack's settings.

    Raises:
        SettingsError: naming every wrong key at once.
    """
    config = pulumi.Config(PROJECT)
    values: dict[str, Any] = {}
    for full in {**get_config_env(), **CONFIG.get()}:
        project, _, key = full.partition(":")
        if project == PROJECT and key != ACCEPTED:
            raw = config.require(key)
            try:
                values[key] = json.loads(raw)
            except json.JSONDecodeError:
                values[key] = raw
    return parse(values)
