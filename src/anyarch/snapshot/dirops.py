"""What is done to layer directories: unpack, scan, pack, remove; in this process or in a user namespace."""
