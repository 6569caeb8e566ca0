"""Generated passwords and session secrets, by generation, in the Secrets the plan names."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pulumi
import pulumi_kubernetes as k8s
import pulumi_random as random

from infra import pods
from infra.settings import ACCEPTED, PROJECT, Settings, SettingsError, accepted_session_secrets


def internal_secret(settings: Settings) -> str:
    """Name of the Secret with the passwords of Redis, Sentinel, the proxy and the exporter among themselves."""
    return f"{settings.redis.app}-internal"


def internal_keys(settings: Settings) -> tuple[str, ...]:
    """The passwords in that Secret; none: there is no such Secret."""
    if settings.redis.mode == "sentinel":
        return ("internal", "monitor")
    return ("monitor",) if settings.metrics.exporter else ()


class Credentials(pulumi.ComponentResource):
    """The Secrets, each with its generated values, newest first.

    Values are letters and digits: safe in redis.conf, in a URL, in an environment variable and in a comma list.

    Attributes:
        fingerprint: changes when what the API reads does: its password, its session secrets.
    """

    fingerprint: pulumi.Output[str]

    def __init__(self, name: str, settings: Settings, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("sessionstore:credentials:Credentials", name, None, opts)
        self._settings = settings
        names, read = settings.credentials, []
        # An external Redis has its own password, whose Secret its owner makes.
        if settings.redis.mode != "external":
            passwords = self._passwords("password", "redis-password")
            self._secret(names.password_secret, passwords)
            read.append(passwords["password"])
        if wanted := internal_keys(settings):
            keys: dict[str, pulumi.Output[str]] = {}
            for key in wanted:
                keys |= self._passwords(key, f"redis-{key}", f"{key}-")
            self._secret(internal_secret(settings), keys)
        accepted = accepted_session_secrets()
        if names.create_session_secret:
            secrets = self._session_secrets(accepted)
            self._secret(names.session_secret, {"session-secret": secrets})
            read.append(secrets)
        elif accepted is not None:
            raise SettingsError(
                f"{PROJECT}:{ACCEPTED}: Secret {names.session_secret} is not ours to write "
                "(credentials.createSessionSecret is false): remove this key, and add those secrets to that Secret"
            )
        self.fingerprint = pods.secret_fingerprint(*read) if read else pulumi.Output.from_input("")
        self.register_outputs({"fingerprint": self.fingerprint})

    def _passwords(self, key: str, what: str, prefix: str = "") -> dict[str, pulumi.Output[str]]:
        """The newest value under `key`, the other one that is valid, if any, under `<prefix>previous`."""
        values = [self._generated(what, number, 48) for number in self._settings.credentials.passwords]
        return dict(zip((key, f"{prefix}previous"), values, strict=False))

    def _session_secrets(self, accepted: pulumi.Output[str] | None) -> pulumi.Output[str]:
        """The comma list: the one that signs, the one that will sign next, those whose cookies still live.

        Pods of the next generation's rolling update sign with a secret that the pods of this one already know: a
        visitor who meets both kinds is logged in with both.
        """
        newest, *older = self._settings.credentials.session_secrets
        values = [self._generated("session-secret", number, 64) for number in (newest, newest + 1, *older)]
        listed = pulumi.Output.all(*values, *([] if accepted is None else [accepted]))
        return listed.apply(lambda texts: ",".join(part for part in map(str.strip, ",".join(texts).split(",")) if part))

    def _generated(self, what: str, generation: int, length: int) -> pulumi.Output[str]:
        child = pulumi.ResourceOptions(parent=self)
        return random.RandomPassword(f"{what}-{generation}", length=length, special=False, opts=child).result

    def _secret(self, name: str, values: Mapping[str, pulumi.Output[str]]) -> None:
        k8s.core.v1.Secret(
            name,
            metadata={
                "name": name,
                "namespace": self._settings.namespace,
                "labels": pods.labels(name, "credentials"),
            },
            type="Opaque",
            data={
                key: value.apply(lambda text: base64.b64encode(text.encode()).decode()) for key, value in values.items()
            },
            opts=pulumi.ResourceOptions(parent=self),
        )
