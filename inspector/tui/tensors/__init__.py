"""View 1: the module tree, the entries, the chunks of one."""
