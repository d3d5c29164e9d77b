"""A bundle: one folder a format with all that an app needs to run a student, and a sample that does."""
