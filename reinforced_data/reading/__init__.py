"""`open_dataset`: a store as training data, in an order that is a function of the step."""
