"""NetworkPolicies judged by the rules of their API, whether anything in the cluster enforces them or not.

Pods that a policy selects are closed but for the union of what the policies allow; both ends of a flow must allow it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ops.doctor.look import Object, labels, name, names, pairs

INGRESS, EGRESS = "Ingress", "Egress"


@dataclass(frozen=True)
class End:
    """An end of a flow: a pod, and the labels of its namespace."""

    pod: Object
    namespace: Mapping[str, str]


@dataclass(frozen=True)
class Flow:
    """From a pod to a port of another one."""

    source: End
    target: End
    port: int
    protocol: str = "TCP"


def refusals(policies: Iterable[Object], flow: Flow) -> list[tuple[str, str]]:
    """Why a flow is refused: (direction, evidence), one for each end that does; []: it is allowed."""
    found = []
    for direction, own, other in ((EGRESS, flow.source, flow.target), (INGRESS, flow.target, flow.source)):
        selecting = [one for one in policies if _selects(one, own, direction)]
        if selecting and not any(_admits(one, direction, other, flow) for one in selecting):
            word = "to" if direction == EGRESS else "from"
            seen = f"NetworkPolicy {names(selecting)} ({direction}) selects {name(own.pod)} and has no rule {word} "
            seen += f"{name(other.pod)} ({pairs(telling(labels(other.pod)))}) on {flow.protocol} {flow.port}: "
            found.append((direction, seen + "; ".join(_rules(one, direction) for one in selecting)))
    return found


def telling(found: Mapping[str, str]) -> dict[str, str]:
    """The labels that a policy of ours may ask for, if there are any, else all."""
    ours = {key: value for key, value in found.items() if key in ("app", "k8s-app") or key.startswith("session-store/")}
    return ours or dict(found)


def _rules(policy: Object, direction: str) -> str:
    """What a policy does allow, for people."""
    allowed = []
    for rule in policy["spec"].get(direction.lower()) or []:
        peers = rule.get("from" if direction == INGRESS else "to") or []
        who = " or ".join(pairs((peer.get("podSelector") or {}).get("matchLabels") or peer) for peer in peers)
        ports = ",".join(str(port.get("port", "any")) for port in rule.get("ports") or []) or "any port"
        allowed.append(f"{who or 'anybody'} on {ports}")
    return f"{name(policy)} allows {' | '.join(allowed) or 'nothing'}"


def _selects(policy: Object, end: End, direction: str) -> bool:
    spec, meta = policy["spec"], policy["metadata"]
    inside = end.pod["metadata"].get("namespace") == meta.get("namespace")
    types = spec.get("policyTypes") or [INGRESS, *([EGRESS] if "egress" in spec else [])]
    return inside and direction in types and matches(spec.get("podSelector") or {}, labels(end.pod))


def _admits(policy: Object, direction: str, other: End, flow: Flow) -> bool:
    for rule in policy["spec"].get(direction.lower()) or []:
        peers, ports = rule.get("from" if direction == INGRESS else "to") or [], rule.get("ports") or []
        if (not peers or any(_is(peer, other, policy) for peer in peers)) and (
            not ports or any(_covers(port, flow) for port in ports)
        ):
            return True
    return False


def _is(peer: Mapping[str, Any], end: End, policy: Object) -> bool:
    if block := peer.get("ipBlock"):
        told = (end.pod.get("status") or {}).get("podIP")
        if told is None:
            return False
        inside, *outside = (ipaddress.ip_network(part) for part in (block["cidr"], *(block.get("except") or [])))
        address = ipaddress.ip_address(told)
        return address in inside and not any(address in part for part in outside)
    if "namespaceSelector" in peer:
        if not matches(peer["namespaceSelector"] or {}, end.namespace):
            return False
    elif end.pod["metadata"].get("namespace") != policy["metadata"].get("namespace"):
        return False
    return matches(peer.get("podSelector") or {}, labels(end.pod))


def _covers(port: Mapping[str, Any], flow: Flow) -> bool:
    if port.get("protocol", "TCP") != flow.protocol:
        return False
    wanted = port.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):  # the name of a port of the target's
        declared = [p for c in flow.target.pod["spec"]["containers"] for p in c.get("ports") or []]
        return any(p.get("name") == wanted and p["containerPort"] == flow.port for p in declared)
    return bool(wanted <= flow.port <= port.get("endPort", wanted))


def matches(selector: Mapping[str, Any], found: Mapping[str, str]) -> bool:
    """Whether a label selector selects these labels; {} selects all."""
    if not (selector.get("matchLabels") or {}).items() <= found.items():
        return False
    for one in selector.get("matchExpressions") or []:
        key, operator, values = one["key"], one["operator"], one.get("values") or []
        if not {
            "In": found.get(key) in values,
            "NotIn": found.get(key) not in values,
            "Exists": key in found,
            "DoesNotExist": key not in found,
        }[operator]:
            return False
    return True
