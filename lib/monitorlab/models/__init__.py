"""Language models: loading, chats, batches, the scoring engine, small trainings."""


class ModelError(ValueError):
    """A checkpoint, or its tokenizer, cannot be loaded or asked; the message says what to do."""
