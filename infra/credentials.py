"""Generated password and session secret, in the Secrets the plan names."""

from __future__ import annotations

import base64

import pulumi
import pulumi_kubernetes as k8s
import pulumi_random as random

from infra import pods
from infra.settings import Settings


class Credentials(pulumi.ComponentResource):
    """The two Secrets, each with its generated value, by generation.

    Values are letters and digits: safe in redis.conf, in a URL and in an environment variable.

    Attributes:
        password_fingerprint: changes when Redis's password does.
        fingerprint: changes when the password or the session secret does.
    """

    password_fingerprint: pulumi.Output[str]
    fingerprint: pulumi.Output[str]

    def __init__(self, name: str, settings: Settings, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("sessionstore:credentials:Credentials", name, None, opts)
        self._settings = settings
        names = settings.credentials
        values = []
        # An external Redis has its own password, whose Secret its owner makes.
        if settings.redis.mode == "external":
            self.password_fingerprint = pulumi.Output.from_input("")
        else:
            password = self._generated("redis-password", 48, names.password_secret, "password")
            self.password_fingerprint = pods.secret_fingerprint(password)
            values.append(password)
        if names.create_session_secret:
            values.append(self._generated("session-secret", 64, names.session_secret, "session-secret"))
        self.fingerprint = pods.secret_fingerprint(*values) if values else pulumi.Output.from_input("")
        self.register_outputs({"fingerprint": self.fingerprint})

    def _generated(self, what: str, length: int, secret: str, key: str) -> pulumi.Output[str]:
        child = pulumi.ResourceOptions(parent=self)
        value = random.RandomPassword(
            f"{what}-{self._settings.credentials.generation}", length=length, special=False, opts=child
        ).result
        k8s.core.v1.Secret(
            secret,
            metadata={
                "name": secret,
                "namespace": self._settings.namespace,
                "labels": pods.labels(secret, "credentials"),
            },
            type="Opaque",
            data={key: value.apply(lambda text: base64.b64encode(text.encode()).decode())},
            opts=child,
        )
        return value
