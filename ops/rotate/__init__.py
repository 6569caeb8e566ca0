"""Passwords, session secrets and certificates change while people stay logged in."""
