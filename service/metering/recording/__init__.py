"""The hot path: a call is validated, waits in a queue, and is committed in company."""
