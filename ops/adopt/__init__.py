"""A Helm chart's bare Redis, or an API's memory, becomes a stack while people stay logged in."""
