"""`caption`: sets of written captions beside the source's own."""
