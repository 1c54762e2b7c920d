"""Contracts: Great Expectations suites, compiled checks, the GX runner and Data Docs."""
