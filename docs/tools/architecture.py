"""Draws docs/architecture.md from the program: `make docs` runs it, tests/unit/test_docs.py compares.

The program runs under mocks, as unit tests run it. A flow is drawn where the NetworkPolicies of both its ends let it
through, a Secret where a pod mounts it or has it in its environment.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit")]

from program import DIGEST, Declared, config, declare  # noqa: E402

PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- drawn by docs/tools/architecture.py: begin -->\n", "<!-- end -->\n"
OPTIONS = {"backup": {"schedule": "30 2 * * *"}, "metrics": {"exporterImage": DIGEST.format("redis_exporter")}}
STACKS = {
    "Standalone": config(**OPTIONS),
    "Sentinel": config(**OPTIONS, redis={"mode": "sentinel", "proxyImage": DIGEST.format("haproxy")}),
}
ANYBODY, ANYWHERE, NAMES = "anybody", "anywhere", "name server"
ALL = "all of it"


@dataclass(frozen=True)
class Workload:
    """Something that runs pods: its kind, how many there are, their labels and their spec."""

    kind: str
    name: str
    pods: int
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def ports(self) -> dict[int, str]:
        """Number to name."""
        return {int(p["containerPort"]): p["name"] for c in self.spec["containers"] for p in c.get("ports", ())}

    @property
    def text(self) -> str:
        """What is written into its box."""
        containers = " + ".join(c["name"] for c in self.spec["containers"])
        pods = f"{self.pods} x {containers}" if self.pods else f"by schedule: {containers}"
        return f"{self.kind} <b>{self.name}</b><br/>{pods}"


def of_kind(declared: Declared, *kinds: str) -> dict[str, dict[str, Any]]:
    """Name to object, in the order of names."""
    return {name: o for (kind, name), o in sorted(declared.objects.items()) if kind in kinds}


def workloads(declared: Declared) -> list[Workload]:
    """Everything that runs pods."""
    found = []
    for kind in ("Deployment", "StatefulSet", "CronJob"):
        for name, o in of_kind(declared, kind).items():
            spec = o["spec"]["jobTemplate"]["spec"] if kind == "CronJob" else o["spec"]
            template = spec["template"]
            pods = 0 if kind == "CronJob" else int(spec["replicas"])
            found.append(Workload(kind, name, pods, template["metadata"]["labels"], template["spec"]))
    return found


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether the selector fits these labels."""
    return bool(selector["matchLabels"].items() <= labels.items())


def namespace(peer: dict[str, Any]) -> str | None:
    """What a peer of a policy is called when it is another namespace."""
    selector = peer.get("namespaceSelector")
    return f"namespace {selector['matchLabels']['kubernetes.io/metadata.name']}" if selector else None


def open_side(declared: Declared, direction: str, pod: Workload, other: Workload | str, port: int) -> bool:
    """Whether the pod's policies let the flow to or from the other through; a text is somebody outside."""
    peers = "to" if direction == "Egress" else "from"
    specs = [o["spec"] for o in of_kind(declared, "NetworkPolicy").values()]
    mine = [s for s in specs if direction in s["policyTypes"] and selects(s["podSelector"], pod.labels)]

    def fits(peer: dict[str, Any]) -> bool:
        if isinstance(other, str):
            return namespace(peer) == other
        return "podSelector" in peer and selects(peer["podSelector"], other.labels)

    return not mine or any(
        port in {int(p["port"]) for p in rule["ports"]} and (peers not in rule or any(map(fits, rule[peers])))
        for spec in mine
        for rule in spec.get(direction.lower(), ())
    )


def flows(declared: Declared) -> Iterator[tuple[str, str, int]]:
    """(from, to, port) of every flow that the policies let through."""
    all_pods = workloads(declared)
    rules = {
        direction: [r for o in of_kind(declared, "NetworkPolicy").values() for r in o["spec"].get(direction, ())]
        for direction in ("ingress", "egress")
    }
    namespaces = sorted(
        {name for rule in rules["ingress"] for peer in rule.get("from", ()) if (name := namespace(peer))}
    )
    for pod in all_pods:
        for port in pod.ports:
            outside = [who for who in (ANYBODY, *namespaces) if open_side(declared, "Ingress", pod, who, port)]
            yield from ((who, pod.name, port) for who in (outside[:1] if ANYBODY in outside else outside))
            for client in all_pods:
                # One pod of a kind has nobody of its kind to talk to.
                alone = client is pod and pod.pods == 1
                if (
                    not alone
                    and open_side(declared, "Egress", client, pod, port)
                    and open_side(declared, "Ingress", pod, client, port)
                ):
                    yield client.name, pod.name, port
        for port in sorted({int(p["port"]) for rule in rules["egress"] for p in rule["ports"]}):
            if open_side(declared, "Egress", pod, ANYWHERE, port):
                yield pod.name, NAMES if port == 53 else ANYWHERE, port


def service_of(declared: Declared, pod: Workload, port: int) -> str | None:
    """The Service with an address of its own that leads to this port."""
    for name, o in of_kind(declared, "Service").items():
        spec = o["spec"]
        if spec.get("clusterIP") == "None" or not spec["selector"].items() <= pod.labels.items():
            continue
        if any(p.get("targetPort", p["port"]) in (port, pod.ports[port]) for p in spec["ports"]):
            return name
    return None


def secrets(declared: Declared, pod: Workload) -> Iterator[tuple[str, str]]:
    """(Secret, what of it) of everything secret that the pod reads."""
    own = of_kind(declared, "Secret")
    for volume in pod.spec.get("volumes", ()):
        if source := volume.get("secret"):
            name = source["secretName"]
            keys = [item["key"] for item in source.get("items", ())] or own.get(name, {}).get("data") or [ALL]
            yield from ((name, key) for key in sorted(keys))
    for container in pod.spec["containers"]:
        for variable in container.get("env", ()):
            if ref := variable.get("valueFrom", {}).get("secretKeyRef"):
                yield ref["name"], variable["name"]


def claims(declared: Declared, pod: Workload) -> list[str]:
    """The volume claims of its pods."""
    own = [v["persistentVolumeClaim"]["claimName"] for v in pod.spec.get("volumes", ()) if "persistentVolumeClaim" in v]
    return own + [c for c in of_kind(declared, "PersistentVolumeClaim") if re.fullmatch(rf"data-{pod.name}-\d+", c)]


def node(kind: str, name: str) -> str:
    """An identifier that mermaid takes."""
    return re.sub(r"\W", "_", f"{kind}_{name}")


def diagram(lines: Iterable[str]) -> list[str]:
    """A mermaid block; each line once, in the order of first mention."""
    return ["```mermaid", "flowchart LR", *(f"  {line}" for line in dict.fromkeys(lines)), "```", ""]


def traffic(declared: Declared) -> Iterator[str]:
    """Who may talk to whom, and where it is kept."""
    pods = {pod.name: pod for pod in workloads(declared)}
    ids = {name: node("pods", name) for name in pods}
    among: dict[str, list[str]] = {}
    ways: dict[tuple[str, str], list[str]] = {}
    for source, target, port in flows(declared):
        if target == NAMES:
            continue
        ids |= {end: node("outside", end) for end in (source, target) if end not in pods}
        label, end = f"{pods[target].ports[port]} {port}" if target in pods else str(port), ids[target]
        if source == target:
            among.setdefault(source, []).append(label)
            continue
        yield from (f"{ids[outside]}([{outside}])" for outside in (source, target) if outside not in pods)
        if target in pods and (service := service_of(declared, pods[target], port)):
            yield f'{node("service", service)}("Service <b>{service}</b>")'
            yield f"{node('service', service)} --> {end}"
            end = node("service", service)
        ways.setdefault((ids[source], end), []).append(label)
    for pod in pods.values():
        own = f"<br/>among themselves:<br/>{', '.join(among[pod.name])}" if pod.name in among else ""
        yield f'{ids[pod.name]}["{pod.text}{own}"]'
    for (start, end), labels in ways.items():
        yield f'{start} -->|"{"<br/>".join(labels)}"| {end}'
    for pod in pods.values():
        if mine := claims(declared, pod):
            yield f'{ids[pod.name]} --- {node("claim", mine[0])}[("{"<br/>".join(mine)}")]'


def confided(declared: Declared) -> Iterator[str]:
    """Who reads which Secret."""
    own = of_kind(declared, "Secret")
    read: dict[tuple[str, str], list[str]] = {}
    for pod in workloads(declared):
        for secret, what in secrets(declared, pod):
            read.setdefault((secret, pod.name), []).append(what)
    for secret, reader in read:
        made = "" if secret in own else "<br/>not the stack's"
        yield f'{node("secret", secret)}[/"Secret <b>{secret}</b>{made}"/]'
        yield f'{node("pods", reader)}["{reader}"]'
    for (secret, reader), parts in read.items():
        what = ALL if ALL in parts else ", ".join(dict.fromkeys(parts))
        yield f'{node("secret", secret)} -->|"{what}"| {node("pods", reader)}'


def table(stacks: dict[str, Declared]) -> list[str]:
    """Every object that ends in the cluster, by kind."""
    lines = ["| kind | " + " | ".join(stacks) + " |", "|---" * (len(stacks) + 1) + "|"]
    objects = {
        stack: [(t, n) for t, n, _ in declared.raw if t.startswith("kubernetes:")] for stack, declared in stacks.items()
    }
    kinds = sorted({t.rsplit(":", 1)[-1] for found in objects.values() for t, _ in found})
    for kind in kinds:
        cells = [
            ", ".join(f"`{n}`" for t, n in sorted(found) if t.rsplit(":", 1)[-1] == kind) for found in objects.values()
        ]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def picture() -> str:
    """What stands between the markers."""
    stacks = {name: declare(values) for name, values in STACKS.items()}
    lines: list[str] = []
    for name, declared in stacks.items():
        asking = ", ".join(f"`{source}`" for source, target, _ in flows(declared) if target == NAMES)
        lines += [f"## {name}", "", "Who may talk to whom, and where data is kept:", "", *diagram(traffic(declared))]
        lines += [f"Not drawn: the name server, port 53, which is asked by {asking}.", ""]
        lines += ["Who reads which Secret:", "", *diagram(confided(declared))]
    lines += ["## Everything that is declared", "", *table(stacks)]
    return "\n".join(lines)


def drawn(page: str) -> str:
    """The page with its picture drawn anew."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + picture() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
    asyncio.get_event_loop().close()  # the mocks' own, which the interpreter would complain about at its end
