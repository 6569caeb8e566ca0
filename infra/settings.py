"""Stack configuration as frozen models. `load` is the only reader of `pulumi.Config` in the program.

Every value is written under `session-store:<key>` in Pulumi.<stack>.yaml; every error names that key and the fix.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env
from pydantic import BaseModel, Field, ValidationError, model_validator

from infra import release as releases
from infra.release import KEY, Release
from infra.sections import Api, Backup, Credentials, Metrics, Model, Network, Redis, Sessions, Tls, Verify
from infra.values import Name

PROJECT = "session-store"
ACCEPTED = "acceptedSessionSecrets"
"""The one key that is a secret: it is not part of `Settings`, which are shown and exported."""


class SettingsError(Exception):
    """The stack configuration is wrong; the message lists every `session-store:<key>` with its fix."""


class Settings(Model):
    """A stack's whole configuration."""

    namespace: Name = "session-store"
    create_namespace: bool = True
    redis: Redis
    tls: Tls = Tls()
    sessions: Sessions = Sessions()
    api: Api
    credentials: Credentials = Credentials()
    network: Network = Network()
    metrics: Metrics = Metrics()
    backup: Backup = Backup()
    verify: Verify = Verify()
    stages: list[Name] = ["dev", "staging", "prod"]
    """In the order of promotion: everybody's own, where changes enter, then those that run what the one before ran"""
    evidence_hours: int = Field(default=72, ge=1, le=24 * 365)
    """How old the evidence may be on which a promotion stands."""
    release: Release | None = None

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
        if self.metrics.exporter_image and self.redis.mode == "external":
            raise ValueError(
                "metrics.exporterImage: runs in Redis pods of ours, and Redis is external; remove this key"
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


def parse(values: Mapping[str, Any], stack: str | None = None) -> Settings:
    """Validate plain configuration values.

    Args:
        values: top-level keys (camelCase, without the `session-store:` prefix) to plain JSON values.
        stack: the stack whose file they come from: what its release pins is filled in, and may not be set beside it.
            None: an exported `Settings`, which is whole.

    Raises:
        SettingsError: naming every wrong key at once.
    """
    found = dict(values)
    try:
        if stack is not None:
            found = _with_release(found, stack)
        settings = Settings.model_validate(found)
    except ValidationError as error:
        raise wrong(_problem(e) for e in error.errors(include_url=False)) from None
    pins = settings.release
    if pins and pins.program == releases.program() and pins.settings_hash != releases.settings_hash(settings):
        raise wrong([f"{PROJECT}:{KEY}: was not written by a promotion: {_PROMOTE}"])
    return settings


_PROMOTE = "`python -m ops promote` writes it, from the stage before; `git checkout` brings the last one back"


def wrong(problems: Iterable[str]) -> SettingsError:
    """The error that lists these lines."""
    return SettingsError("The stack configuration is wrong:\n" + "\n".join(f"  - {line}" for line in problems))


def _with_release(values: dict[str, Any], stack: str) -> dict[str, Any]:
    """The values of a stack file with what its release pins.

    Raises:
        SettingsError: a promoted stage without a release, or one whose file sets what a release carries.
    """
    stages = values.get("stages", Settings.model_fields["stages"].default)
    if KEY not in values:
        if stack in stages[2:]:
            before = stages[stages.index(stack) - 1]
            raise wrong(
                [f"{PROJECT}:{KEY}: is missing: {stack} runs what {before} proved: `ops promote {before} {stack}`"]
            )
        return values
    if stack not in stages[2:]:
        raise wrong([f"{PROJECT}:{KEY}: {stack} is no stage that is promoted to ({', '.join(stages[2:])}): remove it"])
    known = {
        section: [entry.alias or name for name, entry in model.model_fields.items()]
        for section, field in Settings.model_fields.items()
        if isinstance(model := field.annotation, type) and issubclass(model, BaseModel)
    }
    if problems := list(releases.own_file_problems(values, known)):
        raise wrong(f"{PROJECT}:{problem}" for problem in problems)
    try:
        return releases.pinned(values, Release.model_validate(values[KEY]))
    except ValidationError as error:
        raise wrong(
            f"{PROJECT}:{KEY}.{'.'.join(map(str, e['loc']))}: {e['msg']}: {_PROMOTE}" for e in error.errors()
        ) from None


def accepted_session_secrets() -> pulumi.Output[str] | None:
    """Another stack's session secrets whose cookies are to be accepted, comma-separated; encrypted in its file."""
    return pulumi.Config(PROJECT).get_secret(ACCEPTED)


def load() -> Settings:
    """The running stack's settings.

    Raises:
        SettingsError: naming every wrong key at once, or that a release pins another program.
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
    settings = parse(values, pulumi.get_stack())
    pins, present = settings.release, releases.program()
    if pins and pins.program != present:
        raise wrong(
            [
                f"{PROJECT}:{KEY}.program: {pulumi.get_stack()} runs program {pins.program}, and this is {present}: "
                f"promote it, or run the one of commit {pins.commit[:12]} (`python -m ops` does that by itself)"
            ]
        )
    return settings
