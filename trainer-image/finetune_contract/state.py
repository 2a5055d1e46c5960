"""What one resume state is called and what travels with it: state identity, run record, inputs, numerics key."""

from finetune_contract.bounds import Count, Digest, FormationNumber, Name, RealOrNone, Revision, Step
from finetune_contract.values import Value


class StateId(Value):
    """Names one resume state. The greater (formation, step) is the newer one; nothing else decides."""

    formation: FormationNumber
    step: Step

    @property
    def order(self) -> tuple[int, int]:
        return (self.formation, self.step)


def newest_state(*ids: StateId | None) -> StateId | None:
    """The greatest of the given states; None if there is none."""
    present = [state for state in ids if state is not None]
    return max(present, key=lambda state: state.order, default=None)


class InputDigests(Value):
    """SHA-256 (hex) over model files and data; equal in all members or training is refused by name."""

    model: Digest
    dataset: Digest
    model_revision: Revision | None = None


class NumericsKey(Value):
    """Conditions under which two runs give the same bytes; another key is declared, never silent."""

    torch_version: Name
    device: Name
    threads: Count
    attention: Name
    pack_tokens: Count


class RunRecord(Value):
    """The small part of the resume state: everything but the flat (adapter, m, v) floats.

    `rows_consumed` is the position in the data over all epochs. `sample_digest` chains the row ids of every step, so that two
    runs with equal digests trained on the same rows in the same steps.
    """

    step: Step
    total_steps: Step
    rows_consumed: Count
    tokens_total: Count
    sample_digest: Digest
    num_parameters: Count
    last_loss: RealOrNone = None
    first_loss: RealOrNone = None
    eval_loss: RealOrNone = None
    last_evaluated_step: Step | None = None
    config_digest: Digest
    inputs: InputDigests
    numerics: NumericsKey
