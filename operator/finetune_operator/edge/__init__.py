"""The process in a cluster: kopf as feed of job events, the webhook, /metrics, /healthz, /readyz."""
