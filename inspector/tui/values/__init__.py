"""Views 6 and 7: the numbers of a tensor, and the statistics of all."""
