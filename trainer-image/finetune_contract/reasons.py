"""The one-word reasons that members may give. They become reasons of events and labels of metrics, so their number is fixed here."""

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
        "StorageUnavailable",
        "TemplateShowsDate",
        "TrackingUnavailable",
    }
)
NEWS_REASONS = frozenset({"RowsTokenised"})  # of those above: good to know, nothing to mend
OTHER_WARNING = "MemberWarning"  # a member of a newer contract, or one that makes words up: its message is shown all the same

STORAGE_REASONS = frozenset({"StorageUnavailable", "StorageRefused"})
OTHER_STORAGE = "StorageUnavailable"
