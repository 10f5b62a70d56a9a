"""Text to training data: tokenizers, and Megatron's `.bin`/`.idx` files. Nothing here imports torch."""
