"""Stand-ins for Pulumi's provider plugins: for development and CI where the official ones cannot be installed.

Each is a gRPC server that the engine starts, as `pulumi-resource-<name>` on PATH. State they write follows the official
plugins' layout, so a stack can move to the official plugin later.
"""
