"""What `plan` tells."""
