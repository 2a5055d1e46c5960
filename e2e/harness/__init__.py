"""A real Kubernetes for the tests, brought up and taken away on one machine."""
