"""`import_datacompdr`: Apple's published DataCompDR as columns of a store."""
