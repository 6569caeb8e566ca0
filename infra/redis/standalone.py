"""One Redis as a StatefulSet: requirepass, TLS and AOF as configured."""

from __future__ import annotations

from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from infra import pods
from infra.redis import conf
from infra.redis.store import SessionStore, SessionStoreArgs

REPLICAS = 1


class Standalone(SessionStore):
    """Service, headless Service, ConfigMap, volume claim and StatefulSet, all named after `redis.service`."""

    def __init__(self, name: str, args: SessionStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("sessionstore:redis:Standalone", name, None, opts)
        self._settings = settings = args.settings
        self._app = app = settings.redis.service
        self._labels = pods.labels(app, "redis")
        files = {
            "redis.conf": conf.redis_conf(settings),
            "start.sh": conf.start_script(),
            "probe.sh": conf.probe_script(settings),
        }
        config = k8s.core.v1.ConfigMap(
            f"{app}-config", metadata=self._meta(f"{app}-config"), data=files, opts=self._opts()
        )
        headless = self._service(f"{app}-headless", cluster_ip="None", publish_not_ready_addresses=True)
        claims = self._claims() if settings.redis.appendonly else []
        stateful_set = k8s.apps.v1.StatefulSet(
            app,
            metadata=self._meta(app),
            spec={
                "replicas": REPLICAS,
                "service_name": f"{app}-headless",
                "selector": {"match_labels": pods.selector(app)},
                "template": self._template(pods.fingerprint(*files.values())),
                "volume_claim_templates": [self._claim_template()] if claims else None,
            },
            # The claims are ours (`_claims`) and can grow; the template only names them and never changes.
            opts=self._opts(
                depends_on=[config, headless, *claims],
                ignore_changes=["spec.volumeClaimTemplates[*].spec.resources"],
            ),
        )
        service = self._service(app, depends_on=[stateful_set])
        self.host, self.port, self.objects = app, conf.PORT, [stateful_set, service]
        self.register_outputs({"host": self.host, "port": self.port})

    def _opts(self, **options: Any) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=self, **options)

    def _meta(self, name: str, **annotations: str) -> dict[str, Any]:
        return {
            "name": name,
            "namespace": self._settings.namespace,
            "labels": self._labels,
            "annotations": annotations or None,
        }

    def _service(self, name: str, depends_on: list[pulumi.Resource] | None = None, **spec: Any) -> k8s.core.v1.Service:
        # The pods are not there yet when the headless Service is made: waiting for endpoints would be for ever.
        skip = {} if depends_on else {"pulumi.com/skipAwait": "true"}
        return k8s.core.v1.Service(
            name,
            metadata=self._meta(name, **skip),
            spec={
                "selector": pods.selector(self._app),
                "ports": [{"name": "redis", "port": conf.PORT, "target_port": "redis"}],
                **spec,
            },
            opts=self._opts(depends_on=depends_on),
        )

    def _claim_template(self) -> dict[str, Any]:
        storage = self._settings.redis.storage
        return {
            "metadata": {"name": "data"},
            "spec": {
                "access_modes": ["ReadWriteOnce"],
                "storage_class_name": storage.class_name,
                "resources": {"requests": {"storage": storage.size}},
            },
        }

    def _claims(self) -> list[pulumi.Resource]:
        """The claims a StatefulSet would make itself, under the names it looks for: `data-<pod>`.

        Made by the StatefulSet they could not grow: its template is immutable (kubernetes#68737).
        """
        storage = self._settings.redis.storage
        return [
            k8s.core.v1.PersistentVolumeClaim(
                claim,
                # A claim of a WaitForFirstConsumer class binds only once the pod is there.
                metadata=self._meta(claim, **{"pulumi.com/skipAwait": "true"}),
                spec=self._claim_template()["spec"],
                opts=self._opts(retain_on_delete=storage.retain),
            )
            for claim in (f"data-{self._app}-{replica}" for replica in range(REPLICAS))
        ]

    def _template(self, files_fingerprint: str) -> dict[str, Any]:
        settings, app = self._settings, self._app
        secret_volumes = {"password": (settings.credentials.password_secret, conf.PASSWORD_FILE.rsplit("/", 1)[0])}
        if settings.tls_secret:
            secret_volumes["tls"] = (settings.tls_secret, conf.TLS_DIR)
        mounts = [{"name": key, "mount_path": path, "read_only": True} for key, (_, path) in secret_volumes.items()]
        volumes: list[dict[str, Any]] = [
            {"name": key, "secret": {"secret_name": secret, "default_mode": 0o440}}
            for key, (secret, _) in secret_volumes.items()
        ]
        mounts += [
            {"name": "config", "mount_path": conf.CONF_DIR, "read_only": True},
            {"name": "auth", "mount_path": conf.AUTH_FILE.rsplit("/", 1)[0]},
            {"name": "data", "mount_path": conf.DATA_DIR},
        ]
        volumes += [
            {"name": "config", "config_map": {"name": f"{app}-config"}},
            {"name": "auth", "empty_dir": {"medium": "Memory", "size_limit": "1Mi"}},
        ]
        if not settings.redis.appendonly:
            volumes.append({"name": "data", "empty_dir": {}})
        return {
            "metadata": {
                "labels": self._labels,
                "annotations": {"session-store/config": files_fingerprint},
            },
            "spec": {
                "automount_service_account_token": False,
                "enable_service_links": False,
                "termination_grace_period_seconds": 60,
                "security_context": pods.pod_security(settings.redis.run_as_user),
                "containers": [
                    {
                        "name": "redis",
                        "image": settings.redis.image,
                        "command": ["sh", f"{conf.CONF_DIR}/start.sh"],
                        "ports": [{"name": "redis", "container_port": conf.PORT}],
                        "resources": pods.resources(settings.redis.cpu, settings.redis.memory),
                        "security_context": pods.container_security(),
                        "volume_mounts": mounts,
                        "startup_probe": self._probe("liveness", period_seconds=1, failure_threshold=60),
                        "liveness_probe": self._probe("liveness", period_seconds=10, failure_threshold=6),
                        "readiness_probe": self._probe("readiness", period_seconds=2, failure_threshold=3),
                    }
                ],
                "volumes": volumes,
            },
        }

    def _probe(self, kind: str, **timing: int) -> dict[str, Any]:
        return {"exec_": {"command": ["sh", f"{conf.CONF_DIR}/probe.sh", kind]}, "timeout_seconds": 5, **timing}
