"""Language models: loading, chats, batches, the scoring engine, small trainings."""
