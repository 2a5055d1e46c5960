"""The process in a cluster: kopf as feed of job events and webhook server, /metrics, /healthz, /readyz."""
