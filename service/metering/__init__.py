"""FaceID Metering: counts FaceID calls, bills them by the month, and tells whether an account may call."""

import os

# gRPC's core logs what odd clients do, in their own words, line breaks and all: they could write lines of our log. It
# looks at this while it is imported, which is after this package.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
