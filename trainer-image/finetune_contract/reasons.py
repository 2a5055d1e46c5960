"""The one-word reasons that members may give. They become reasons of events and labels of metrics, so their number is fixed here."""

STORE_AWAY = "StorageUnavailable"  # a store does not answer: as a warning while inputs are fetched, as a state of commits later

WARNING_REASONS = frozenset(
    {
        "ColumnsUnused",
        "CommitLate",
        "CommitLost",
        "CommitSkipped",
        "ConditionalWritesIgnored",
        "EndOfTurnNotTrained",
        "EvaluationNotFinite",
        "IdleRanks",
        "LongerThanTheModel",
        "MessageKeysUnused",
        "NumericsChanged",
        "RowsChanged",
        "RowsCut",
        "RowsTokenised",
        STORE_AWAY,
        "TemplateShowsDate",
        "TrackingUnavailable",
    }
)
NEWS_REASONS = frozenset({"RowsTokenised"})  # of those above: good to know, nothing to mend
OTHER_WARNING = "MemberWarning"  # a member of a newer contract, or one that makes words up: its message is shown all the same

STORAGE_REASONS = frozenset({STORE_AWAY, "StorageRefused"})
OTHER_STORAGE = STORE_AWAY
