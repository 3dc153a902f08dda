"""Storages behind a URL: S3, GCS, Azure, http; bounded, counted, and asked again."""
