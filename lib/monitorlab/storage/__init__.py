"""What is on disk: files, digests, manifests, tables with schemas, sources of data."""
