"""View 2: the data files and what lies in one."""
