"""What the descriptors promise, walked."""
