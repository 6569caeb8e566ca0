"""`ops backup --to-claim`: run the backup CronJob's job once."""

from __future__ import annotations

import time
from typing import Any

from kubernetes.client import BatchV1Api

from ops import backup, kube
from ops.errors import OpsError
from ops.redis_pods import RedisPods
from ops.stacks import Target

PATIENCE = 900.0


def to_claim(target: Target, pods: RedisPods) -> str:
    """Run the job and wait for it.

    Returns:
        The backup's name in the claim.

    Raises:
        OpsError: there is no CronJob, or the job failed; the message holds its last words.
    """
    name = f"{pods.settings.redis.app}-backup"
    batch = BatchV1Api(pods.cluster.api)
    cron = kube.get(batch.read_namespaced_cron_job, name, pods.namespace)
    if cron is None:
        raise OpsError(
            f"There is no CronJob {name} in namespace {pods.namespace}: set session-store:backup "
            f"(for example {{schedule: '30 2 * * *'}}) in Pulumi.{target.stack}.yaml and run `python -m ops up`."
        )
    template = pods.cluster.api.sanitize_for_serialization(cron.spec.job_template)
    owner = {"apiVersion": "batch/v1", "kind": "CronJob", "name": name, "uid": cron.metadata.uid}
    metadata = {
        "generateName": f"{name}-now-",
        "labels": template["metadata"].get("labels"),
        "annotations": {"cronjob.kubernetes.io/instantiate": "manual"},
        "ownerReferences": [owner],
    }
    # Nobody looks at it after a while; a job by hand is not in the CronJob's history.
    body = {"metadata": metadata, "spec": {**template["spec"], "ttlSecondsAfterFinished": 3600}}
    job = batch.create_namespaced_job(pods.namespace, body, _request_timeout=kube.TIMEOUT).metadata.name
    target.say(f"Job {job} runs")

    def ended() -> str | None:
        status = batch.read_namespaced_job_status(job, pods.namespace, _request_timeout=kube.TIMEOUT).status
        return next(
            (c.type for c in status.conditions or [] if c.status == "True" and c.type in ("Complete", "Failed")), None
        )

    end = kube.wait_for(ended, PATIENCE, every=1)
    words = _words(pods, job)
    if end != "Complete":
        state = "failed" if end else f"did not end within {PATIENCE:.0f} s"
        raise OpsError(f"Job {job} {state}: {' '.join(words[-2:]) or 'it said nothing'}")
    made = next((line for line in reversed(words) if line.startswith("backup: ")), "")
    _, found, digest, size, *_ = made.split() or [""] * 4
    target.say(f"Backup: {found} in claim {name}, {size} bytes")
    target.say(f"SHA-256: {digest}")
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    command = f"python -m ops restore --from-claim {found} --stack {target.stack}"
    backup.record(target, pods, f"{found} in claim {name}, made {stamp}, sha256 {digest}", command)
    return found


def _words(pods: RedisPods, job: str) -> list[str]:
    core = pods.cluster.core
    found = core.list_namespaced_pod(pods.namespace, label_selector=f"job-name={job}", _request_timeout=kube.TIMEOUT)
    newest: Any = max(found.items, key=lambda pod: pod.metadata.creation_timestamp, default=None)
    if newest is None:
        return []
    text = core.read_namespaced_pod_log(newest.metadata.name, pods.namespace, _request_timeout=kube.TIMEOUT)
    return [line for line in text.splitlines() if line.strip()]
