"""Keys and certificates: three authorities (cluster, etcd, front proxy), one certificate per client and server."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.host import write
from cluster.spec import Cluster

_CA_DAYS, _LEAF_DAYS, _RENEW_DAYS = 3650, 365, 30


@dataclass(frozen=True)
class _Pair:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def crt(cluster: Cluster, name: str) -> Path:
    """Path of certificate `name`."""
    return cluster.pki / f"{name}.crt"


def key(cluster: Cluster, name: str) -> Path:
    """Path of key `name`."""
    return cluster.pki / f"{name}.key"


def kubeconfig(cluster: Cluster, name: str) -> Path:
    """Path of the kubeconfig of component `name`."""
    return cluster.pki / f"{name}.kubeconfig"


def _load(cluster: Cluster, name: str) -> _Pair | None:
    """The stored pair, or None when it is missing, half written, mismatched or near its end."""
    try:
        loaded = serialization.load_pem_private_key(key(cluster, name).read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(crt(cluster, name).read_bytes())
    except (OSError, ValueError):
        return None
    left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    if (
        not isinstance(loaded, ec.EllipticCurvePrivateKey)
        or loaded.public_key() != certificate.public_key()
        or left < dt.timedelta(days=_RENEW_DAYS)
    ):
        return None
    return _Pair(loaded, certificate)


def _store(cluster: Cluster, name: str, pair: _Pair) -> _Pair:
    _store_key(cluster, name, pair.key)
    write(crt(cluster, name), pair.certificate.public_bytes(serialization.Encoding.PEM).decode())
    return pair


def _store_key(cluster: Cluster, name: str, secret: ec.EllipticCurvePrivateKey) -> None:
    encoding = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    write(key(cluster, name), secret.private_bytes(*encoding).decode(), 0o600)


def _name(common: str, organization: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organization:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def _builder(
    subject: x509.Name, issuer: x509.Name, days: int, public: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(cluster: Cluster, name: str) -> _Pair:
    if pair := _load(cluster, name):
        return pair
    secret = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"{cluster.name}-{name}")
    certificate = (
        _builder(subject, subject, _CA_DAYS, secret.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .sign(secret, hashes.SHA256())
    )
    return _store(cluster, name, _Pair(secret, certificate))


def _names(names: tuple[str, ...]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _leaf(
    cluster: Cluster,
    name: str,
    authority: _Pair,
    common: str,
    organization: str | None = None,
    names: tuple[str, ...] = (),
) -> _Pair:
    """A client certificate; a server's as well when it has `names`. Kept while it is what would be issued now."""
    wanted = _names(names)
    if pair := _load(cluster, name):
        try:
            pair.certificate.verify_directly_issued_by(authority.certificate)
            extension = pair.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            stored = list(extension.value)
        except x509.ExtensionNotFound:
            stored = []
        except Exception:  # whatever is wrong with it, a new one is the answer
            stored = [x509.DNSName("another-authority.invalid")]
        if stored == wanted and pair.certificate.subject == _name(common, organization):
            return pair
    secret = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(common, organization), authority.certificate.subject, _LEAF_DAYS, secret.public_key())
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if wanted:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.add_extension(x509.SubjectAlternativeName(wanted), critical=False)
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return _store(cluster, name, _Pair(secret, certificate))


def _config(cluster: Cluster, user: str, name: str) -> str:
    """A kubeconfig with everything embedded, so that it can be copied elsewhere."""

    def encoded(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    context = f"session-store-{cluster.name}"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": context,
                "cluster": {"server": cluster.server, "certificate-authority-data": encoded(crt(cluster, "ca"))},
            }
        ],
        "users": [
            {
                "name": f"{context}-{user}",
                "user": {
                    "client-certificate-data": encoded(crt(cluster, name)),
                    "client-key-data": encoded(key(cluster, name)),
                },
            }
        ],
        "contexts": [{"name": context, "context": {"cluster": context, "user": f"{context}-{user}"}}],
        "current-context": context,
    }
    return yaml.safe_dump(document, sort_keys=False)


def issue(cluster: Cluster) -> None:
    """Make every key, certificate and kubeconfig that is missing, wrong or near its end; leave the others alone."""
    cluster.pki.mkdir(parents=True, exist_ok=True)
    cluster.pki.chmod(0o700)
    ca, etcd_ca = _authority(cluster, "ca"), _authority(cluster, "etcd-ca")
    host_ip = str(cluster.host_ip)
    service = (
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    )
    _leaf(cluster, "apiserver", ca, "kube-apiserver", names=(*service, host_ip, str(cluster.services[1]), "127.0.0.1"))
    _leaf(cluster, "apiserver-kubelet-client", ca, "kube-apiserver-kubelet-client", "system:masters")
    _leaf(cluster, "etcd", etcd_ca, "etcd", names=(host_ip,))
    _leaf(cluster, "apiserver-etcd-client", etcd_ca, "kube-apiserver")
    _leaf(cluster, "front-proxy-client", _authority(cluster, "front-proxy-ca"), "front-proxy-client")
    try:
        serialization.load_pem_private_key(key(cluster, "service-accounts").read_bytes(), None)
    except (OSError, ValueError):
        _store_key(cluster, "service-accounts", ec.generate_private_key(ec.SECP256R1()))
    clients = {c: (f"system:{c}", None) for c in ("kube-controller-manager", "kube-scheduler", "kube-proxy")}
    users: dict[str, tuple[str, str | None]] = {"admin": ("admin", "system:masters"), **clients}
    for node in cluster.nodes:
        users[f"kubelet-{node.number}"] = (f"system:node:{node.name}", "system:nodes")
        _leaf(
            cluster, f"kubelet-{node.number}-serving", ca, f"system:node:{node.name}", names=(str(node.ip), node.name)
        )
    for name, (common, organization) in users.items():
        _leaf(cluster, name, ca, common, organization)
        target = cluster.kubeconfig if name == "admin" else kubeconfig(cluster, name)
        write(target, _config(cluster, name, name), 0o600)
