"""What is left when things die."""
