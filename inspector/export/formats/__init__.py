"""What files of each format look like: which bytes stand where."""
