"""Pinned programs that this project builds from Go modules, and the stand-ins for Pulumi's plugins."""
