"""Programs under limits, behind namespaces."""
