"""Folders in buckets, gs:// and s3://: worked on as local folders that the bucket has, too."""
