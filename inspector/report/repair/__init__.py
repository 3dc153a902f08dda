"""What `repair` tells."""
