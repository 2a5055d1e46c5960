"""Every setting of the operator, read from the environment once; no other module of the operator reads environment variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_operator.decide.facts.priority import NO_CAPS, PriorityCaps, parse_caps

PREFIX = "FINETUNE_OPERATOR_"
LOG_LEVELS = ("debug", "info", "warning", "error")


class SettingsError(Exception):
    """An environment variable holds something else than wanted; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`watch_namespaces` empty: the whole cluster. `kubeconfig` None: the pod's service account."""

    namespace: str
    pod_name: str
    pod_ip: str
    trainer_image: str
    channel_port: int = 8443
    webhook_port: int = 9443
    metrics_port: int = 8080
    watch_namespaces: tuple[str, ...] = ()
    kubeconfig: Path | None = None
    api_server: str | None = None  # in-cluster address, as the kubelet announces it
    log_level: str = "info"
    num_workers: int = 32
    lease_name: str = "finetune-operator"
    ca_secret_name: str = "finetune-operator-ca"
    channel_service: str = "finetune-channel"
    webhook_service: str = "finetune-webhook"
    webhook_configuration: str = "finetune-operator"
    channel_url: str | None = None  # only where members cannot use the Service's name
    reconnect_seconds: float = 10.0
    max_priority: PriorityCaps = NO_CAPS

    @property
    def member_channel_url(self) -> str:
        """Where members find the leader."""
        return self.channel_url or f"wss://{self.channel_service}.{self.namespace}.svc:{self.channel_port}/channel"


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Raises SettingsError that names the variable, what it holds and what was wanted."""
    given = {name.removeprefix(PREFIX).lower(): value for name, value in environment.items() if name.startswith(PREFIX) and value}
    known = set(Settings.__dataclass_fields__) - {"api_server"}
    unknown = sorted(set(given) - known)
    if unknown:
        raise SettingsError(f"{PREFIX}{unknown[0].upper()} is not a setting; known are {', '.join(sorted(name.upper() for name in known))}")
    missing = [name for name in ("namespace", "pod_name", "pod_ip", "trainer_image") if name not in given]
    if missing:
        raise SettingsError(f"{PREFIX}{missing[0].upper()} is not set")
    values: dict[str, object] = {name: _parse(name, text) for name, text in given.items()}
    host = environment.get("KUBERNETES_SERVICE_HOST")
    if host:
        bracketed = f"[{host}]" if ":" in host else host
        values["api_server"] = f"https://{bracketed}:{environment.get('KUBERNETES_SERVICE_PORT', '443')}"
    return Settings(**values)  # type: ignore[arg-type]


def _parse(name: str, text: str) -> object:
    variable = f"{PREFIX}{name.upper()}"
    if name in {"channel_port", "webhook_port", "metrics_port", "num_workers"}:
        if not (text.isascii() and text.isdigit() and len(text) < 10) or not 1 <= int(text) <= 65535:
            raise SettingsError(f"{variable} is {text!r}: wanted a whole number from 1 to 65535")
        return int(text)
    if name == "reconnect_seconds":
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= 3600:
            raise SettingsError(f"{variable} is {text!r}: wanted a number of seconds from 0 to 3600")
        return seconds
    if name == "max_priority":
        try:
            return parse_caps(text)
        except ValueError:
            raise SettingsError(f"{variable} is {text!r}: wanted a whole number, then NAMESPACE=NUMBER, with commas between") from None
    if name == "log_level" and text not in LOG_LEVELS:
        raise SettingsError(f"{variable} is {text!r}: wanted one of {', '.join(LOG_LEVELS)}")
    if name == "watch_namespaces":
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return Path(text) if name == "kubeconfig" else text
