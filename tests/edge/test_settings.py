"""Settings: one place, and a bad value is named with what was wanted."""

from pathlib import Path

import pytest

from finetune_operator.settings import SettingsError, read_settings

NEEDED = {
    "FINETUNE_OPERATOR_NAMESPACE": "ops",
    "FINETUNE_OPERATOR_POD_NAME": "op-1",
    "FINETUNE_OPERATOR_POD_IP": "10.0.0.1",
    "FINETUNE_OPERATOR_TRAINER_IMAGE": "trainer:1",
}


def test_defaults_are_those_of_the_chart() -> None:
    settings = read_settings(NEEDED)
    assert (settings.channel_port, settings.webhook_port, settings.metrics_port) == (8443, 9443, 8080)
    assert settings.member_channel_url == "wss://finetune-channel.ops.svc:8443/channel"
    assert settings.watch_namespaces == ()


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("WATCH_NAMESPACES", "a, b,", "watch_namespaces", ("a", "b")),
        ("WATCH_NAMESPACES", "", "watch_namespaces", ()),
        ("KUBECONFIG", "/etc/kube", "kubeconfig", Path("/etc/kube")),
        ("METRICS_PORT", "9999", "metrics_port", 9999),
        ("RECONNECT_SECONDS", "2.5", "reconnect_seconds", 2.5),
    ],
)
def test_a_variable_is_parsed(name, text, field, value) -> None:
    assert getattr(read_settings({**NEEDED, f"FINETUNE_OPERATOR_{name}": text}), field) == value


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("METRICS_PORT", "http", "METRICS_PORT is 'http': wanted a whole number"),
        ("METRICS_PORT", "70000", "from 1 to 65535"),
        ("METRICS_PORT", "\u00b2", "from 1 to 65535"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL is 'loud': wanted one of debug"),
        ("RECONNECT_SECONDS", "soon", "wanted a number of seconds"),
        ("RECONNECT_SECONDS", "nan", "from 0 to 3600"),
        ("RECONNECT_SECONDS", "-1", "from 0 to 3600"),
        ("METRIC_PORT", "1", "METRIC_PORT is not a setting"),
        ("POD_IP", "", "FINETUNE_OPERATOR_POD_IP is not set"),
    ],
)
def test_a_bad_value_is_named_with_what_was_wanted(name, text, words) -> None:
    with pytest.raises(SettingsError, match=words):
        read_settings({**NEEDED, f"FINETUNE_OPERATOR_{name}": text})


@pytest.mark.parametrize(("host", "server"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")])
def test_inside_a_pod_the_api_server_is_where_kubernetes_says(host, server) -> None:
    assert read_settings({**NEEDED, "KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}).api_server == server
