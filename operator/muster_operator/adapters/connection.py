"""How to reach the API server: from a pod's service account, or from a kubeconfig.

`adapters.cluster` and the loop's watches use the same credentials. A service account's token is read again
on every request, since the kubelet replaces it.
"""

import base64
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class NoCluster(Exception):
    """Raised when neither a service account nor a kubeconfig says where the cluster is."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where the API server is, and what proves who we are."""

    server: str
    ca_data: bytes | None = None
    token: str | None = None
    token_file: Path | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    namespace: str = "default"

    def authorization(self) -> dict[str, str]:
        """Return the header that carries the token; empty with a client certificate."""
        token = self.token_file.read_text().strip() if self.token_file else self.token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def tls(self) -> ssl.SSLContext:
        """Return the context that trusts the cluster's CA and shows our certificate."""
        context = ssl.create_default_context(cadata=self.ca_data.decode() if self.ca_data else None)
        if self.certificate and self.key:
            with tempfile.TemporaryDirectory() as folder:  # the ssl module reads both from files only
                certificate, key = Path(folder, "crt"), Path(folder, "key")
                certificate.write_bytes(self.certificate)
                key.touch(mode=0o600)
                key.write_bytes(self.key)
                context.load_cert_chain(certificate, key)
        return context


def connection() -> Connection:
    """Return the pod's own, or that of KUBECONFIG (or ~/.kube/config). Raises NoCluster."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if host and (SERVICE_ACCOUNT / "token").exists() and "KUBECONFIG" not in os.environ:
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        address = f"[{host}]" if ":" in host else host
        return Connection(
            server=f"https://{address}:{port}",
            ca_data=(SERVICE_ACCOUNT / "ca.crt").read_bytes(),
            token_file=SERVICE_ACCOUNT / "token",
            namespace=(SERVICE_ACCOUNT / "namespace").read_text().strip(),
        )
    path = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    if not path.exists():
        raise NoCluster(f"no cluster: this is no pod with a service account, and {path} does not exist")
    return from_kubeconfig(yaml.safe_load(path.read_text()), path.parent)


def from_kubeconfig(config: dict[str, Any], folder: Path) -> Connection:
    """Return the current context's connection. Relative files are looked for in `folder`."""

    def named(kind: str, name: str) -> dict[str, Any]:
        for entry in config.get(f"{kind}s") or []:
            if entry["name"] == name:
                found: dict[str, Any] = entry[kind]
                return found
        raise NoCluster(f"the kubeconfig has no {kind} {name!r}")

    def content(entry: dict[str, Any], key: str) -> bytes | None:
        if f"{key}-data" in entry:
            return base64.b64decode(entry[f"{key}-data"])
        return (folder / entry[key]).read_bytes() if key in entry else None

    context = named("context", config.get("current-context", ""))
    cluster, user = named("cluster", context["cluster"]), named("user", context["user"])
    return Connection(
        server=cluster["server"].rstrip("/"),
        ca_data=content(cluster, "certificate-authority"),
        token=user.get("token"),
        certificate=content(user, "client-certificate"),
        key=content(user, "client-key"),
        namespace=context.get("namespace", "default"),
    )
