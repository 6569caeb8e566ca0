"""The way from the API to Redis: its wiring, DNS, the Service and what it leads to, NetworkPolicies."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from infra.redis import conf
from ops.doctor import policy
from ops.doctor.look import Look, Object, labels, name, names, pairs
from ops.doctor.model import BROKEN, CHANGED, CLUSTER, PATH, REDIS, RISK, Finding

DNS_PORT = 53


def wiring(look: Look) -> Iterator[Finding]:
    """The API is told where Redis is as the stack declares it."""
    redis, sessions = look.settings.redis, look.settings.sessions
    wanted = {
        "REDIS_HOST": redis.host or redis.service,
        "REDIS_PORT": str(redis.port if look.external else conf.PORT),
        "REDIS_SESSION_DB": str(redis.database),
        "REDIS_TLS": str(look.settings.tls.enabled).lower(),
        "SESSION_PREFIX": sessions.prefix,
    }
    for pod, answer in look.api.items():
        env = answer["env"]
        if env.get("SESSION_STORE") == "memory" or redis.adoption == "beside":
            continue
        if wrong := {key: value for key, value in wanted.items() if env.get(key, value) != value}:
            what = f"The API is wired to another Redis: {', '.join(f'{k}={env[k]}' for k in wrong)}"
            seen = f"pod {pod}: env {', '.join(f'{k}={env[k]}, declared {v}' for k, v in wrong.items())}"
            yield Finding("api-wiring", PATH, what, (seen,), look.mend, about=(f"Deployment {look.deployment}",))


def name_servers(look: Look) -> Iterator[Finding]:
    """The cluster's DNS runs."""
    services = look.of("dns services")
    if not services:
        return  # another kind of cluster has it elsewhere; what the pods see counts
    ready = [e for e in look.endpoints("kube-dns", "dns slices") if _serves(e)]
    if ready or not look.saw("dns slices"):
        return
    pods = look.of("dns pods")
    seen = f"Service kube-system/kube-dns: {len(ready)} ready endpoints; its pods: "
    seen += ", ".join(f"{name(pod)} {pod['status'].get('phase')}" for pod in pods) or "none"
    what = "The cluster's DNS is down: no pod finds Redis by name"
    fix = "`kubectl -n kube-system rollout restart deployment/coredns` (`scale` it where it has 0 pods)"
    yield Finding("dns-down", CLUSTER, what, (*_lookups(look), seen), fix)


def service(look: Look) -> Iterator[Finding]:
    """The Service that clients connect to leads to the right port of the right pods."""
    redis = look.settings.redis
    called, about = redis.service, (f"Service {redis.service}",)
    if look.external or redis.adoption == "beside" or not look.saw("services"):
        return
    found = look.named("services", called)
    if found is None:
        seen = f"services in namespace {look.settings.namespace}: no {called} (there are {names(look.of('services'))})"
        fix = f"`python -m ops up --stack {look.stack} --refresh`"
        what = f"Service {called} is missing: the API cannot find Redis by that name"
        yield Finding("service-missing", PATH, what, (seen, *_lookups(look)), fix, about=about)
        return
    yield from _selection(look, found, about)
    yield from _ports(look, found, about)
    asked = [a["dns"]["address"] for a in look.api.values() if "address" in a.get("dns", {})]
    address = found["spec"].get("clusterIP")
    if address and address != "None" and (wrong := [one for one in asked if one != address]):
        what = f"DNS gives another address for {called} than its Service has"
        seen = f"Service {called}: clusterIP {address}; a pod of the API was told {wrong[0]}"
        fix = f"`{look.kubectl} rollout restart deployment/{look.deployment}`, and look who else answers for {called}"
        yield Finding("dns-wrong-answer", PATH, what, (seen,), fix, because=("api-wiring",))


def _selection(look: Look, found: Object, about: tuple[str, ...]) -> Iterator[Finding]:
    called, selector = name(found), found["spec"].get("selector") or {}
    servers, endpoints = look.server_pods(), look.endpoints(called)
    led_to = {(e.get("targetRef") or {}).get("name") for e in endpoints}
    # One that is ending is still one of them.
    strangers = sorted(
        name(pod) for pod in look.of("pods") if name(pod) in led_to and labels(pod).get("app") != look.server
    )
    shown = f"Service {called}: spec.selector {pairs(selector) or 'none'}"
    if strangers:
        what = f"Service {called} leads to pods that are not {'the proxies' if look.sentinel else 'Redis'}: "
        seen = f"its endpoints: {', '.join(strangers)}"
        yield Finding("service-wrong-pods", PATH, what + ", ".join(strangers), (shown, seen), look.mend, about=about)
    elif servers and not any(selector.items() <= labels(pod).items() for pod in servers):
        what = f"Service {called} has no endpoints: its selector matches no pod of Redis"
        seen = f"labels of {name(servers[0])}: {pairs(policy.telling(labels(servers[0])))}"
        yield Finding("service-selector", PATH, what, (shown, seen), look.mend, about=about)


def endpoints(look: Look) -> Iterator[Finding]:
    """A pod behind the Service is ready."""
    called = look.settings.redis.service
    found, servers = look.named("services", called), look.server_pods()
    if found is None or look.external or not look.saw("slices") or any(_serves(e) for e in look.endpoints(called)):
        return
    selector = found["spec"].get("selector") or {}
    shown = f"Service {called}: spec.selector {pairs(selector) or 'none'}"
    pods = ", ".join(f"{name(pod)} {pod['status'].get('phase')}, not ready" for pod in servers) or "it selects no pod"
    what = f"Service {called} has no endpoints: none of its pods is ready"
    fix = f"`{look.kubectl} describe pod -l {pairs(selector)}` tells why"
    yield Finding("service-no-endpoints", PATH, what, (shown, pods), fix, because=(CLUSTER, REDIS, PATH, CHANGED))


def _ports(look: Look, found: Object, about: tuple[str, ...]) -> Iterator[Finding]:
    ports = found["spec"].get("ports") or []
    shown = ", ".join(f"port {p['port']}, targetPort {p.get('targetPort')}" for p in ports)
    called = name(found)
    if not any(p["port"] == conf.PORT for p in ports):
        what = f"Service {called} has no port {conf.PORT}, on which the API connects"
        yield Finding("service-port", PATH, what, (f"Service {called}: {shown}",), look.mend, about=about)
        return
    servers, target = look.server_pods(), next(p for p in ports if p["port"] == conf.PORT).get("targetPort")
    listening = {
        value
        for pod in servers
        for c in pod["spec"]["containers"]
        for p in c.get("ports") or []
        if p["containerPort"] == conf.PORT
        for value in (p.get("name"), p["containerPort"])
    }
    if servers and target not in listening:
        what = f"Service {called} leads to port {target}, where {'no proxy' if look.sentinel else 'no Redis'} listens"
        seen = f"Service {called}: {shown}; {name(servers[0])} listens on {conf.PORT} (redis)"
        yield Finding("service-port", PATH, what, (seen,), look.mend, about=about)


def policies(look: Look) -> Iterator[Finding]:
    """NetworkPolicies admit the API to Redis, everybody to DNS, and Redis's pods to each other."""
    found = look.of("policies")
    spaces = {name(space): labels(space) for space in look.of("namespaces")}

    def end(pod: Object) -> policy.End:
        space = pod["metadata"].get("namespace", "")
        return policy.End(pod, spaces.get(space, {"kubernetes.io/metadata.name": space}))

    clients, servers, members = look.api_pods(), look.server_pods(), look.redis_pods()
    wanted = [("the API", "Redis", c, s, conf.PORT, "TCP") for c in clients[:1] for s in servers[:1]]
    wanted += [("the API", "DNS", c, d, DNS_PORT, "UDP") for c in clients[:1] for d in look.of("dns pods")[:1]]
    if look.sentinel:
        for port in (conf.PORT, conf.SENTINEL_PORT):
            wanted += [("a proxy", "Redis", p, m, port, "TCP") for p in servers[:1] for m in members[:1]]
            wanted += [("Redis", "Redis", a, b, port, "TCP") for a, b in itertools.pairwise(members[:2])]
    for who, whom, source, target, port, protocol in wanted:
        flow = policy.Flow(end(source), end(target), port, protocol)
        for _, seen in policy.refusals(found, flow):
            named = tuple(f"NetworkPolicy {name(one)}" for one in found if f"{name(one)} allows" in seen)
            what = f"NetworkPolicy {seen.split()[1]} does not admit {who} to {whom} (port {port})"
            passes = (
                who == "the API" and whom == "Redis" and any((a.get("tcp") or {}).get("ok") for a in look.api.values())
            )
            note = ("the API is connected all the same: nothing enforces policies here yet",) if passes else ()
            yield Finding(
                "network-policy",
                PATH,
                what,
                (seen, *note),
                look.mend,
                RISK if passes else BROKEN,
                (*named, *_labelled(look)),
            )


def _labelled(look: Look) -> tuple[str, ...]:
    """The labels that policies ask for are in the Deployment's template, which may be what was changed."""
    return (f"Deployment {look.deployment}",)


def lookups(look: Look) -> Iterator[Finding]:
    """The API's pods find Redis by its name."""
    for pod, answer in look.api.items():
        asked = answer.get("dns") or {}
        if "address" in asked or not asked:
            continue
        host = answer["env"].get("REDIS_HOST", "redis")
        spec: Object = next((p["spec"] for p in look.of("pods") if name(p) == pod), {})
        said = f"pod {pod}: lookup of {host}: {asked['code']} {asked.get('message', '')}".rstrip()
        servers = ", ".join(answer.get("nameServers") or []) or "no nameserver"
        options = f"dnsPolicy {spec.get('dnsPolicy')}"
        if spec.get("dnsConfig"):
            options += f", dnsConfig {spec['dnsConfig']}"
        silent = asked["code"] in ("EAI_AGAIN", "TIMEOUT")
        what = f"The API's pod cannot resolve {host}: " + (
            "its name server does not answer" if silent else "no such name"
        )
        about = (f"Deployment {look.deployment}",)
        fix = look.mend if look.by_hand(about) else "mend the cluster's DNS: `kubectl -n kube-system get pods`"
        because = ("dns-down", "service-missing", "api-wiring", "network-policy", "node-down")
        # One that is connected goes on with the address that it knows.
        severity = RISK if (answer.get("readyz") or {}).get("status") == 200 else BROKEN
        yield Finding("dns-lookup", PATH, what, (said, f"{options}; {servers}"), fix, severity, about, because)


def _lookups(look: Look) -> Iterator[str]:
    for pod, answer in look.api.items():
        if (asked := answer.get("dns")) and "address" not in asked:
            yield f"pod {pod}: lookup of {answer['env'].get('REDIS_HOST', 'redis')}: {asked['code']}"


def _serves(endpoint: Mapping[str, object]) -> bool:
    conditions = endpoint.get("conditions") or {}
    return bool(isinstance(conditions, Mapping) and conditions.get("ready", True))
