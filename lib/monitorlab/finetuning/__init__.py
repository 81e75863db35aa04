"""Monitors made by fine-tuning: recipe, training, and what they learned."""
