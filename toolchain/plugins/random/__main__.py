"""`pulumi-resource-random`: the engine starts it with its own address as argument."""

from toolchain.plugins.random.provider import RandomProvider
from toolchain.plugins.server import serve

if __name__ == "__main__":
    serve(RandomProvider)
