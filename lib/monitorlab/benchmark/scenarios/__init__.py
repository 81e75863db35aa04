"""The scenario library in YAML: read, checked, varied."""
