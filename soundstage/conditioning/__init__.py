"""What the transformer is told besides text: coordinates, masks, guides, references, frozen parts."""
