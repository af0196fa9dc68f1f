"""The executor `pool`: members that hold one base and step many trials on it together."""
