"""Who may call: service statuses in memory, kept fresh by a feed of changes."""
