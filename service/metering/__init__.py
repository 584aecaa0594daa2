"""FaceID Metering: counts FaceID calls, bills them by the month, and tells whether an account may call."""

import os

# gRPC's core logs what odd clients do, in their own words, line breaks and all: they could write lines of our log. It
# looks at this while it is imported, which is after this package.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# The service starts PostgreSQL while it serves, and never forks to stay. The handlers that gRPC otherwise runs between
# fork and exec crash there now and then (SIGSEGV of psql and postgres, seen when root changes the user).
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
