"""OCI images of the embedded cluster, built reproducibly from Debian packages, npm and our Go tools."""
