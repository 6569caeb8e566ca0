"""The pods of a Redis of ours: ConfigMap, headless Service, volume claims and StatefulSet, for one pod or several."""

from __future__ import annotations

from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from infra import pods
from infra.credentials import internal_keys, internal_secret
from infra.redis import conf, exporter
from infra.redis.store import SessionStore, SessionStoreArgs

MODE = "session-store/mode"
"""Label of Redis's pods: the mode they belong to."""
BACKUPS = "redis-backups"
"""ConfigMap in which `ops backup` notes the newest backup."""


class Members(SessionStore):
    """What standalone and sentinel mode have in common. All Redis pods have the label `app=<redis.name>`."""

    def __init__(self, name: str, args: SessionStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args, opts)
        settings = args.settings
        self._app = settings.redis.app
        self._sentinel = settings.redis.mode == "sentinel"
        self._replicas = settings.redis.replicas if self._sentinel else 1
        self._set = conf.stateful_set(settings)
        self._labels = pods.labels(self._app, "redis")
        self._match = {**pods.selector(self._app), MODE: settings.redis.mode}

    def _opts(self, **options: Any) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=self, **options)

    def _meta(self, name: str, **annotations: str) -> dict[str, Any]:
        return {
            "name": name,
            "namespace": self._settings.namespace,
            "labels": self._labels,
            "annotations": annotations or None,
        }

    def _service(self, selector: dict[str, str], depends_on: list[pulumi.Resource]) -> list[pulumi.Resource]:
        """The Service that clients connect to; none while another Redis stands behind it.

        Where the pods have another name than the Service, it may be there already, made by a Helm chart: then it is
        taken over, with every field that the chart set, and outlives its template there.
        """
        redis, name = self._settings.redis, self._settings.redis.service
        if redis.adoption == "beside" and self._app != name:
            return []
        if redis.adoption == "door":
            selector = pods.selector(conf.door(self._settings))
        taken: dict[str, Any] = {}
        annotations: dict[str, str] = {}
        if self._app != name:
            context = pulumi.Config("kubernetes").get("context")
            taken["retain_on_delete"] = True
            taken["provider"] = k8s.Provider("takeover", context=context, upsert_existing_objects=True)
            annotations = {"pulumi.com/patchForce": "true", "helm.sh/resource-policy": "keep"}
        return [
            k8s.core.v1.Service(
                name,
                metadata=self._meta(name, **annotations),
                spec={"selector": selector, "ports": [{"name": "redis", "port": conf.PORT, "target_port": "redis"}]},
                opts=self._opts(depends_on=depends_on, **taken),
            )
        ]

    def _headless(self) -> k8s.core.v1.Service:
        """Names for the pods of both modes, so that one mode can copy from the other."""
        ports = [{"name": "redis", "port": conf.PORT}, {"name": "sentinel", "port": conf.SENTINEL_PORT}]
        return k8s.core.v1.Service(
            f"{self._app}-headless",
            # The pods are not there yet when it is made: waiting for endpoints would be for ever.
            metadata=self._meta(f"{self._app}-headless", **{"pulumi.com/skipAwait": "true"}),
            spec={
                "selector": pods.selector(self._app),
                "cluster_ip": "None",
                "publish_not_ready_addresses": True,
                "ports": ports,
            },
            opts=self._opts(),
        )

    def _stateful_set(self) -> k8s.apps.v1.StatefulSet:
        settings = self._settings
        files = {
            "redis.conf": conf.redis_conf(settings),
            "topology.sh": conf.topology(settings),
            **conf.scripts(*conf.REDIS_SCRIPTS),
        }
        if self._sentinel:
            files |= {"sentinel.conf": conf.sentinel_conf(settings), **conf.scripts(*conf.SENTINEL_SCRIPTS)}
        if settings.metrics.exporter:
            files |= exporter.files(settings)
        config = k8s.core.v1.ConfigMap(
            f"{self._set}-config", metadata=self._meta(f"{self._set}-config"), data=files, opts=self._opts()
        )
        claims = self._claims() if settings.redis.appendonly else []
        return k8s.apps.v1.StatefulSet(
            self._set,
            metadata=self._meta(self._set),
            spec={
                "replicas": self._replicas,
                "service_name": f"{self._app}-headless",
                # All at once: who is master is decided among the pods, not by their order.
                "pod_management_policy": "Parallel",
                # Before the next one goes, name servers and the others have learned where this one is now.
                "min_ready_seconds": 10 if self._sentinel else None,
                "selector": {"match_labels": self._match},
                "template": self._template(pods.fingerprint(*files.values())),
                "volume_claim_templates": [self._claim_template()] if claims else None,
            },
            # The claims are ours (`_claims`) and can grow; the template only names them and never changes.
            opts=self._opts(
                depends_on=[config, self._headless(), *claims],
                ignore_changes=["spec.volumeClaimTemplates[*].spec.resources"],
            ),
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
            for claim in (f"data-{self._set}-{replica}" for replica in range(self._replicas))
        ]

    def _template(self, files_fingerprint: str) -> dict[str, Any]:
        settings = self._settings
        volumes, mounts = self._volumes()
        containers = [
            {
                "name": "redis",
                "image": settings.redis.image,
                "command": ["sh", f"{conf.CONF_DIR}/redis.sh"],
                "ports": [{"name": "redis", "container_port": conf.PORT}],
                "resources": pods.resources(settings.redis.cpu, settings.redis.memory),
                "security_context": pods.container_security(),
                "volume_mounts": mounts,
                "startup_probe": self._probe("liveness", period_seconds=1, failure_threshold=60),
                "liveness_probe": self._probe("liveness", period_seconds=10, failure_threshold=6),
                "readiness_probe": self._probe("readiness", period_seconds=3, failure_threshold=2),
            }
        ]
        starters: list[dict[str, Any]] = []
        if self._sentinel:
            # /etc/hosts is a file that the agent keeps (`look_up` in lib.sh); it must be there to be mounted.
            made = f"echo '127.0.0.1 localhost' >{conf.RUN_DIR}/hosts"
            starters = [
                {
                    "name": "hosts",
                    "image": settings.redis.image,
                    "command": ["sh", "-c", made],
                    "resources": pods.resources("10m", "64Mi"),
                    "security_context": pods.container_security(),
                    "volume_mounts": [mount for mount in mounts if mount["name"] == "run"],
                }
            ]
            mounts.append({"name": "run", "mount_path": "/etc/hosts", "sub_path": "hosts"})
            containers[0]["lifecycle"] = {"pre_stop": {"exec_": {"command": ["sh", f"{conf.CONF_DIR}/handover.sh"]}}}
            containers.append(
                {
                    "name": "sentinel",
                    "image": settings.redis.image,
                    "command": ["sh", f"{conf.CONF_DIR}/sentinel.sh"],
                    "env": [{"name": "POD_IP", "value_from": {"field_ref": {"field_path": "status.podIP"}}}],
                    "ports": [{"name": "sentinel", "container_port": conf.SENTINEL_PORT}],
                    "resources": pods.resources("50m", "64Mi"),
                    "security_context": pods.container_security(),
                    "volume_mounts": [mount for mount in mounts if mount["name"] not in ("data", "backups")],
                }
            )
        annotations = {"session-store/config": files_fingerprint}
        if settings.metrics.exporter:
            containers.append(exporter.container(settings))
            volumes += exporter.volumes(settings)
            annotations |= pods.scraped(conf.EXPORTER_PORT)
        return {
            "metadata": {"labels": {**self._labels, MODE: settings.redis.mode}, "annotations": annotations},
            "spec": {
                "automount_service_account_token": False,
                "enable_service_links": False,
                "termination_grace_period_seconds": 60,
                "security_context": pods.pod_security(settings.redis.run_as_user),
                # A name server that died with its node costs a lookup one second, not five.
                "dns_config": {"options": [{"name": "timeout", "value": "1"}, {"name": "attempts", "value": "1"}]},
                "topology_spread_constraints": pods.spread(self._match, "controller-revision-hash")
                if self._sentinel
                else None,
                "init_containers": starters or None,
                "containers": containers,
                "volumes": volumes,
            },
        }

    def _volumes(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(volumes, mounts) of container `redis`."""
        settings = self._settings
        secrets = {"redis": settings.credentials.password_secret}
        if internal_keys(settings):
            secrets["internal"] = internal_secret(settings)
        if settings.tls_secret:
            secrets["redis-tls"] = settings.tls_secret
        volumes: list[dict[str, Any]] = [
            {"name": folder, "secret": {"secret_name": secret, "default_mode": 0o440}}
            for folder, secret in secrets.items()
        ]
        mounts: list[dict[str, Any]] = [
            {"name": folder, "mount_path": f"{conf.SECRETS_DIR}/{folder}", "read_only": True} for folder in secrets
        ]
        volumes += [
            {"name": "config", "config_map": {"name": f"{self._set}-config"}},
            {"name": "backups", "config_map": {"name": BACKUPS, "optional": True}},
            {"name": "run", "empty_dir": {"medium": "Memory", "size_limit": "4Mi"}},
        ]
        mounts += [
            {"name": "config", "mount_path": conf.CONF_DIR, "read_only": True},
            {"name": "backups", "mount_path": "/etc/redis-backups", "read_only": True},
            {"name": "run", "mount_path": conf.RUN_DIR},
            {"name": "data", "mount_path": conf.DATA_DIR},
        ]
        if not settings.redis.appendonly:
            volumes.append({"name": "data", "empty_dir": {}})
        return volumes, mounts

    def _probe(self, kind: str, **timing: int) -> dict[str, Any]:
        return {"exec_": {"command": ["sh", f"{conf.CONF_DIR}/probe.sh", kind]}, "timeout_seconds": 5, **timing}
