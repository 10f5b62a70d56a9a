"""Both models over the same tokens, layer by layer: where and by how much they differ."""
