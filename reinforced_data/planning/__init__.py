"""`plan_store`: what a store will cost, measured on a small piece of its source."""
