"""`ops top`: a live view of a stack. Reads only (docs/sessions.md)."""
