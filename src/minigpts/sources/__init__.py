"""Where models and texts come from. A source of models reads an ``ImportedModel``; one writer makes it a checkpoint."""
