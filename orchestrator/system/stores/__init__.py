"""Storage at an address (`s3://bucket/prefix`): a working folder here, whose truth is the store."""
