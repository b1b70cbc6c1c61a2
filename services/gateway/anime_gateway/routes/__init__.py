"""The paths of the gateway, by what they are about."""
