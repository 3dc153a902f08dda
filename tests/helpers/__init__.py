"""What several tests share: planted faults, mutations, makers of metadata."""
