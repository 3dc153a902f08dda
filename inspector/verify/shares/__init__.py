"""Reading by many ranks: each its share of the payloads, and what all of them come to."""
