"""The gRPC edge: servicers, conversion, errors, health. No SQL, no rules."""
