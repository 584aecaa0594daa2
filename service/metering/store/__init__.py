"""PostgreSQL. The only package that imports its driver; driver errors are translated here, at the border."""
