"""Who asks: certificates, roles, bearer tokens. Who may do what stands in metering.rpc.permissions."""
