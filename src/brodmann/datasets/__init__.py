"""Public data sets, one file each; `_template` is the form for a new one."""
