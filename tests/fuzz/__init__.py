"""Fuzzing of `millrace serve`: what it answers to requests that nobody sane sends."""
