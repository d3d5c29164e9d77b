"""How embeddings are stored: what a codec is, which one a column has, its codebook."""
