"""Stand-in for the `kubernetes` provider plugin: server-side apply and real waits over the official Python client."""
