"""The stack. Run by `pulumi up` and, inline, by `python -m ops`."""

import sys
from pathlib import Path

import pulumi
import pulumi_kubernetes as k8s

# `pulumi up` runs this folder as a program; its imports start one level higher.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from infra import (
    api,
    backup,
    certificates,
    credentials,
    monitoring,
    network,
    pods,
    redis,
    release,
    settings,
    wiring,
)

config = settings.load()

namespace = []
if config.create_namespace:
    level = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
    metadata = {"name": config.namespace, "labels": {**pods.PART_OF, **level}}
    namespace = [
        k8s.core.v1.Namespace(config.namespace, metadata=metadata, opts=pulumi.ResourceOptions(retain_on_delete=True))
    ]
within = pulumi.ResourceOptions(depends_on=namespace)

network.declare(config, within)
secrets = credentials.Credentials("credentials", config, within)
tls = certificates.certificate(config, within)
store = redis.session_store(
    "store",
    redis.SessionStoreArgs(config),
    pulumi.ResourceOptions(depends_on=[*namespace, secrets, *tls]),
)
wired = wiring.wiring(config, store, secrets.fingerprint)
after = pulumi.ResourceOptions(depends_on=[*namespace, secrets, *store.objects])
if config.redis.adoption == "beside":
    pass  # the API still uses the Redis that is to be replaced
elif config.api.existing_deployment:
    api.WiredApi("api", config, config.api.existing_deployment, wired, after)
else:
    api.Api("api", config, wired, after)
backup.declare(config, after)
monitoring.declare(config, within)

deployment = config.api.existing_deployment or api.APP
pulumi.export("namespace", config.namespace)
pulumi.export("settings", config.model_dump(mode="json", by_alias=True))
pulumi.export(
    "endpoint",
    {
        "host": store.host,
        "port": store.port,
        "tls": config.tls.enabled,
        "database": config.redis.database,
        "mode": config.redis.mode,
    },
)
names = config.credentials
pulumi.export("secrets", {"password": names.password_secret, "session": names.session_secret, "tls": config.tls_secret})
pulumi.export(
    "api",
    {
        "deployment": deployment,
        "service": None if config.api.existing_deployment else api.APP,
        "port": config.api.port,
        "nodePort": config.api.node_port,
    },
)
pulumi.export("release", release.describe(config))
