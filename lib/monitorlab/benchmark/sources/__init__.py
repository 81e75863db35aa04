"""Pairs and questions from elsewhere: published files, models."""
