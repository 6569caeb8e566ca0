"""`ops sessions`: who is logged in, and logging out by session, user, pattern or all (docs/sessions.md)."""
