"""The loop in this process, on a machine without Ray (or under ``torchrun``)."""

from pipeline.progress import Silence, listening
from training.checkpoint import CheckpointStore
from training.config import PretrainConfig, write_config
from training.context import LocalContext
from training.distributed import rank, world_size
from training.loop import RunResult, pretrain
from training.preflight import preflight, total_steps
from training.record.metrics import latest_values
from training.stopping import asked_to_stop


def launch(config: PretrainConfig, context: LocalContext | None = None) -> RunResult:
    """Runs or resumes a pretraining here; the counterpart of ``training.cluster.launch.launch``.

    Args:
        config: the run.
        context: device and stop requests; None: the first GPU or the CPU.

    Raises:
        InputError: before anything is written, when something does not fit (``preflight``).
    """
    info = preflight(config, world_size())
    total = total_steps(config, info)
    done = max(CheckpointStore(config.out / "checkpoints", keep=1).steps(), default=0)
    if done == total:
        return RunResult(done, total, latest_values(config.out), ran=False)
    context = context or LocalContext()
    if rank() != 0:
        with asked_to_stop(context.request_stop), listening(Silence()):
            return pretrain(config, context)
    write_config(config.out, config, info.plan_digest)
    with asked_to_stop(context.request_stop):
        return pretrain(config, context)
