"""Conditioning of the transformer besides text: tokens, coordinates, masks, guides, references."""
