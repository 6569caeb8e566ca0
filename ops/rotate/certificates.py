"""A new certificate, and when asked or needed a new CA, served by everybody without a restart.

Where a rotation stands is read from the Secrets and from what the pods serve. A new CA waits beside the old one in
Secret redis-ca (next.crt, next.key) until everybody trusts both and serves what it signed.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from infra.redis.conf import PORT, SENTINEL_PORT
from ops import certificates, tls
from ops.certificates import CA_SECRET, Secrets
from ops.errors import OpsError
from ops.rotate.fleet import fingerprint
from ops.rotate.steps import Pods, Steps

SETTLE = 10.0
"""Seconds from a file that has changed in a pod to the program that has read it: watchers look every second or so."""
KUBELET = 100.0
"""Seconds that kubelet takes at most to refresh a Secret in a pod that cannot be looked into."""


def rotate(fleet: Pods, steps: Steps, secrets: Secrets, days: int = 90, authority: bool = False) -> None:
    """Rotate the certificate, or finish the rotation that was begun; one of somebody else's is only checked.

    Args:
        fleet: the running stack.
        steps: shows the steps.
        secrets: of the stack's namespace.
        days: validity of the new certificate.
        authority: make a new CA too.

    Raises:
        OpsError: this stack has no certificate of its own, or a step failed.
    """
    settings = fleet.settings
    name = settings.tls_secret
    if name is None or settings.redis.mode == "external":
        certificates.name_of(settings)  # says why
        raise OpsError("this stack has no certificate of its own.")
    present = secrets.read(name)
    if present is None:
        raise OpsError(f"Secret {name} is missing: `ops up` was never run here?", 2)
    owner = certificates.owner_of(present)
    if owner != certificates.OURS:
        if authority:
            raise OpsError(f"Secret {name} is {owner}'s to renew, and so is its CA.")
        steps.step(f"Every pod serves what is in Secret {name}", lambda: _serve(fleet, steps, secrets, name))
        if owner == certificates.CERT_MANAGER:
            sooner = f"`cmctl renew -n {settings.namespace} {name}`, then this again"
            steps.say(f"cert-manager renews Secret {name} in time; sooner: {sooner}.")
        else:
            steps.say(f"Secret {name} was made by a person: put a new certificate into it, then run this again.")
        return
    ours = certificates.authority(secrets)
    if (
        ours is None
        or authority
        or ours.upcoming
        or ours.present.parsed.not_valid_after_utc < steps.now() + timedelta(days)
    ):
        _new_authority(fleet, steps, secrets, name, days)
    else:
        _new_leaf(fleet, steps, secrets, name, days)


def _new_leaf(fleet: Pods, steps: Steps, secrets: Secrets, name: str, days: int) -> None:
    wanted = fingerprint(_text(secrets, name, "tls.crt"))
    shown = {where: fleet.served(pod, port) for where, pod, port in _ports(fleet)}
    if late := [where for where, certificate in shown.items() if certificate != wanted]:
        steps.say(f"Secret {name} was renewed before, and {', '.join(late)} serves an older one: going on with that.")
    else:
        steps.step(
            "The certificate is renewed", lambda: certificates.issue(secrets, fleet.settings, steps.now(), days, True)
        )
    steps.step("Every pod serves it", lambda: _serve(fleet, steps, secrets, name))
    steps.step("The API is connected", lambda: _connected(fleet, steps))


def _new_authority(fleet: Pods, steps: Steps, secrets: Secrets, name: str, days: int) -> None:
    settings = fleet.settings
    held = certificates.authority(secrets)
    if held is None:
        raise OpsError(f"Secret {CA_SECRET}, the CA of Secret {name}, is missing: `ops certificates issue --renew`.")
    old, new = held.present, held.upcoming
    if new:
        steps.say("A new CA was begun before: going on with it.")
    else:
        new = made = tls.make_ca(steps.now())
        steps.step("A new CA is made", lambda: certificates.prepare(secrets, old, made))
    both = old.certificate + new.certificate
    present = tls.Pair(_text(secrets, name, "tls.crt").encode(), _text(secrets, name, "tls.key").encode())
    if not _signed(present, new):
        steps.step("Everybody trusts both CAs", lambda: _trusted(fleet, steps, secrets, name, present, both))
        names = tls.issued_names(settings.redis.service, settings.namespace, settings.redis.app)
        leaf = tls.make_leaf(new, names, steps.now(), days)
        steps.step("The new CA signs the certificate", lambda: _publish(secrets, name, leaf, both))
        present = leaf
    steps.step("Every pod serves it", lambda: _serve(fleet, steps, secrets, name))
    steps.step("The API is connected", lambda: _connected(fleet, steps))
    steps.step(
        "Everybody trusts the new CA only", lambda: _trusted(fleet, steps, secrets, name, present, new.certificate)
    )
    steps.step("The old CA is dropped", lambda: certificates.adopt(secrets, new))
    steps.step("The API is connected", lambda: _connected(fleet, steps))


def _publish(secrets: Secrets, name: str, leaf: tls.Pair, ca: bytes) -> str:
    secrets.write(name, "kubernetes.io/tls", {"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": ca})
    return f"Secret {name}, good until {leaf.parsed.not_valid_after_utc:%Y-%m-%d}"


def _trusted(fleet: Pods, steps: Steps, secrets: Secrets, name: str, leaf: tls.Pair, ca: bytes) -> str:
    """Write ca.crt and wait until every pod has it: no program tells whom it trusts, its file does."""
    if _text(secrets, name, "ca.crt").encode() != ca:
        _publish(secrets, name, leaf, ca)
    wanted = ca.decode()

    def left() -> str | None:
        late = [where for where, text in fleet.trusted() if text is not None and text.strip() != wanted.strip()]
        return f"{', '.join(late)} has the former ca.crt" if late else None

    steps.wait(left, fleet, api_too=True)
    unseen = [where for where, text in fleet.trusted() if text is None]
    time.sleep(KUBELET if unseen else SETTLE)
    blind = f", waited {KUBELET:.0f} s for {', '.join(unseen)}, which has no cat to look with" if unseen else ""
    return f"ca.crt in every pod{blind}"


def _serve(fleet: Pods, steps: Steps, secrets: Secrets, name: str) -> str:
    wanted = fingerprint(_text(secrets, name, "tls.crt"))

    def left() -> str | None:
        ports = _ports(fleet)
        late = [where for where, pod, port in ports if fleet.served(pod, port) != wanted]
        return f"{', '.join(late)} serves another certificate" if late else None if ports else "Redis has no pod"

    steps.wait(left, fleet)
    return f"{wanted[:16]} at {', '.join(where for where, _, _ in _ports(fleet))}"


def _connected(fleet: Pods, steps: Steps) -> str:
    steps.wait(fleet.rolled_out)
    return "every API pod is ready and connected"


def _ports(fleet: Pods) -> list[tuple[str, str, int]]:
    """(name for people, pod, port) of everything that serves the certificate."""
    ports = [PORT, SENTINEL_PORT] if fleet.settings.redis.mode == "sentinel" else [PORT]
    found = [(f"{pod}:{port}", pod, port) for pod in fleet.redis_pods() for port in ports]
    # The proxy passes TLS through: what it shows is the master's.
    return found + [(f"{pod}:{PORT}", pod, PORT) for pod in fleet.proxy_pods()]


def _text(secrets: Secrets, name: str, key: str) -> str:
    found = secrets.read(name)
    try:
        return str((found or {})["data"][key].decode())
    except KeyError:
        raise OpsError(f"Secret {name} has no {key}.") from None


def _too_old(ca: tls.Pair, moment: datetime) -> bool:
    """Whether a CA ends before a certificate that it would sign."""
    return ca.parsed.not_valid_after_utc < moment


def _signed(leaf: tls.Pair, by: tls.Pair) -> bool:
    try:
        leaf.parsed.verify_directly_issued_by(by.parsed)
    except Exception:  # whatever keeps it from verifying: it was not signed by this CA
        return False
    return True
