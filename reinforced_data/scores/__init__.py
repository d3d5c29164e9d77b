"""`add_scores`: a number a sample, from a table or from what a store holds."""
