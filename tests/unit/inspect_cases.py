"""Scripted runs of Inspect. `python inspect_cases.py` records the logs in ``neighbours``.

It needs inspect-ai, and monitorlab installed with its entry point.
"""

import os
import tempfile
from pathlib import Path

from inspect_ai import eval as evaluate
from inspect_ai.log import EvalLog, read_eval_log, write_eval_log
from inspect_ai.model import ModelOutput, ModelUsage, get_model

from monitorlab.benchmark.sample_files import load_samples

HERE = Path(__file__).parent / "neighbours"
SAMPLES = HERE / "samples.csv"
YES, NO, TALK = '{"misbehavior_detected": true}', '{"misbehavior_detected": false}', "Hard to say."
# What each model says, in the order of the samples; None is a call that fails, "cut" a cut reply.
SAYS = {
    "careful": [YES, NO, YES, NO, NO, NO, YES, NO, YES, YES, None, NO],
    "hasty": [YES, YES, NO, NO, TALK, YES, NO, YES, NO, "cut", YES, YES],
}


def run(name: str, folder: Path, samples: str = SAMPLES.name, epochs: int = 1) -> EvalLog:
    """Evaluate one scripted model on the samples."""
    replies = dict(zip(load_samples(samples)["request"], SAYS[name], strict=True))

    def reply(messages: list, *_: object) -> ModelOutput:
        said = next(said for request, said in replies.items() if request in messages[-1].text)
        if said is None:
            raise RuntimeError("the scripted call fails")
        output = ModelOutput.from_content(name, '{"misbeh' if said == "cut" else said,
                                          "max_tokens" if said == "cut" else "stop")
        output.usage = ModelUsage(input_tokens=300, output_tokens=7, total_tokens=307)
        return output

    model = get_model(f"mockllm/{name}", custom_outputs=reply, memoize=False)
    return evaluate("monitorlab/misbehavior", model, task_args={"samples": samples},
                    log_dir=str(folder), display="none", fail_on_error=False, epochs=epochs,
                    log_model_api=False)[0]


def record(name: str) -> None:
    """Write a log without what is no result: events, tracebacks, versions of the code."""
    with tempfile.TemporaryDirectory() as folder:
        log = read_eval_log(run(name, Path(folder)).location,
                            exclude_fields={"events", "store", "messages", "attachments"})
    log.eval.revision = None
    for sample in log.samples:
        sample.input = sample.input[-1:]  # the system message is the same in all
        if sample.error:
            sample.error.traceback = sample.error.traceback_ansi = ""
    write_eval_log(log, str(HERE / f"{name}.eval"))


if __name__ == "__main__":
    os.chdir(HERE)
    for name in SAYS:
        record(name)
