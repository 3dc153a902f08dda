"""What every view is made of: tables, bars, lines, panes, the key bar."""
