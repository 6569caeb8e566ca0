"""The embedded Kubernetes: real components on one Linux machine, each node a network namespace."""
