"""Monitors behind an OpenAI-compatible API."""
