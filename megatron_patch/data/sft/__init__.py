"""Conversations to training data: recognised, rendered, masked, tokenized once, packed. Only `dataset` needs torch."""
