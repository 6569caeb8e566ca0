"""`pulumi-resource-kubernetes`: the engine starts it with its own address as argument."""

import importlib
import threading

from toolchain.plugins.kubernetes.provider import KubernetesProvider
from toolchain.plugins.server import serve

if __name__ == "__main__":
    # The client takes seconds to import: meanwhile the engine may ask what needs no cluster.
    threading.Thread(target=importlib.import_module, args=("kubernetes.client",), daemon=True).start()
    serve(KubernetesProvider)
