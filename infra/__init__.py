"""What the cluster holds: Redis, its secrets and the API's wiring, declared. No I/O, no clock, no cluster access."""

VERSION = "0.1.0"
"""The program's version; part of every stack's release (see `release.py`)."""
