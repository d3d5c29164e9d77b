"""`pack`: pictures with texts, in whatever shape they lie around, as WebDataset shards."""
