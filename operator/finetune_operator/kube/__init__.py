"""Kubernetes: informer, status writer, pods, lease, events, certificates, over one small HTTP client."""
