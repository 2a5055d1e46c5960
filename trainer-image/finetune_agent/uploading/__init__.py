"""The child that commits snapshots to the store and publishes the adapter."""
