"""The bounded process that unpickles: started, watched, read; its wire and its cache."""
