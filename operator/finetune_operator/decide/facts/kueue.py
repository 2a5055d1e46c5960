"""A Kueue in the cluster that takes single pods of ours: told with the setting that keeps it away. The operator changes nothing of it."""

CAPTURED_BY_KUEUE = "CapturedByKueue"


def how_to_keep_kueue_away(namespace: str) -> str:
    """One line for Kueue's own configuration: it knows nothing of the gang and admits its pods one by one."""
    selector = f"{{matchExpressions: [{{key: kubernetes.io/metadata.name, operator: NotIn, values: [{namespace}]}}]}}"
    return f"Kueue holds single pods of this gang; set managedJobsNamespaceSelector: {selector} in Kueue's configuration"
