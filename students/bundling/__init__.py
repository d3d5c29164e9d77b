"""A bundle: one folder a format, with all that an app needs and a sample that runs."""
