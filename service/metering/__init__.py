"""FaceID Metering: counts FaceID calls, bills them by the month, and tells whether an account may call."""
