"""`pointsman serve | check | route | generate | models pull | schema`."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pointsman import __version__
from pointsman.cli.audit import audit
from pointsman.cli.audit_traffic import audit_traffic
from pointsman.cli.base import base
from pointsman.cli.bundle import bundle
from pointsman.cli.calibrate import calibrate
from pointsman.cli.callers import callers
from pointsman.cli.cascade import cascade
from pointsman.cli.difficulty import difficulty
from pointsman.cli.economics import economics
from pointsman.cli.encoder import encoder
from pointsman.cli.evaluate import evaluate, explain
from pointsman.cli.export import export
from pointsman.cli.feedback import feedback
from pointsman.cli.intents import diff, import_, lint
from pointsman.cli.options import Config, read_prompt
from pointsman.cli.policy import policy
from pointsman.cli.replay import replay
from pointsman.cli.report import report
from pointsman.cli.specialists import specialists
from pointsman.cli.train import train
from pointsman.errors import ConfigError, PointsmanError, unwrap

app = typer.Typer(
    help="Send every prompt down the right track: a local specialist, or the cloud.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models = typer.Typer(help="Model files.", no_args_is_help=True)
app.add_typer(models, name="models")
app.add_typer(audit, name="audit")
app.add_typer(policy, name="policy")
app.command()(report)
app.command()(economics)
app.command()(feedback)
app.command()(audit_traffic)
app.command()(replay)
app.command()(export)
app.add_typer(callers, name="callers")
app.add_typer(base, name="base")
app.add_typer(bundle, name="bundle")
app.add_typer(cascade, name="cascade")
app.add_typer(difficulty, name="difficulty")
app.add_typer(encoder, name="encoder")
app.add_typer(specialists, name="specialists")
app.command()(calibrate)
app.command("eval")(evaluate)
app.command()(explain)
app.command()(lint)
app.command()(diff)
app.command("import")(import_)
app.command()(train)

_ENDED_BY_SIGNAL = 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Address = Annotated[
    str, typer.Option(help="host:port of a running server; without it, routes in this process.")
]
Text = Annotated[str, typer.Argument(help="The prompt; - reads standard input.", show_default=False)]
Specialist = Annotated[str, typer.Option(help="The specialist that must answer.")]
Tier = Annotated[str, typer.Option(help="The tier that must answer: local, mid or cloud.")]
TaskType = Annotated[str, typer.Option(help="A task type that a specialist or the settings declare.")]
LocalOnly = Annotated[bool, typer.Option(help="Never let this prompt reach the cloud.")]
OutputTokens = Annotated[
    int, typer.Option(min=0, help="Length of the answer that is needed, for rules that depend on it.")
]
Caller = Annotated[str, typer.Option(help="Who asks, for rules that depend on it.")]
Session = Annotated[
    str, typer.Option(help="Conversation that this prompt continues; a running server remembers it.")
]


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Print the version."""
    if show:
        print(__version__)
        raise typer.Exit


@app.command()
def serve(
    config: Config = None,
    address: Annotated[str, typer.Option(help="host:port to listen on; overrides server.address.")] = "",
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Listen beyond this machine without TLS or known callers all the same."
        ),
    ] = False,
) -> None:
    """Serve gRPC until SIGTERM or Ctrl-C; then drain and stop."""
    from pointsman.host.logs import configure_logs
    from pointsman.host.progress import fetch_progress
    from pointsman.host.serve import fast_event_loop
    from pointsman.host.serve import serve as run
    from pointsman.settings import load

    stated = ({"address": address} if address else {}) | ({"insecure": True} if insecure else {})
    settings = load(config, **({"server": stated} if stated else {}))
    configure_logs(settings.log)
    with fetch_progress() as progress, asyncio.Runner(loop_factory=fast_event_loop()) as runner:
        try:
            runner.run(run(settings, progress))
        except asyncio.CancelledError:  # a signal before it served
            raise typer.Exit(_ENDED_BY_SIGNAL) from None


@app.command()
def check(
    config: Config = None,
    fetch: Annotated[
        bool, typer.Option(help="Fetch model files that are missing, to check them too.")
    ] = False,
) -> None:
    """Validate intents and specialists; exit 1 and name every problem if there is one."""
    from pointsman.host.check import check_catalog
    from pointsman.settings import load

    report = check_catalog(load(config), fetch=fetch)
    for note in report.notes:
        print(f"note: {note}")
    for problem in report.problems:
        print(problem, file=sys.stderr)
    print(report.summary)
    if report.problems:
        raise typer.Exit(1)


@app.command()
def route(
    text: Text,
    address: Address = "",
    as_json: Json = False,
    config: Config = None,
    specialist: Specialist = "",
    tier: Tier = "",
    task_type: TaskType = "",
    local_only: LocalOnly = False,
    output_tokens: OutputTokens = 0,
    caller: Caller = "",
    session: Session = "",
) -> None:
    """Show where a prompt goes, and why."""
    from pointsman.cli.ask import Question, print_route, rules_of

    rules = rules_of(specialist, tier, task_type, local_only, output_tokens)
    question = Question(read_prompt(text), rules, session, caller)
    asyncio.run(print_route(question, address, config, as_json=as_json))


@app.command()
def generate(
    text: Text,
    address: Address = "",
    as_json: Json = False,
    config: Config = None,
    specialist: Specialist = "",
    tier: Tier = "",
    task_type: TaskType = "",
    local_only: LocalOnly = False,
    output_tokens: OutputTokens = 0,
    caller: Caller = "",
    session: Session = "",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="Sampling temperature.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Sampling seed.")] = None,
    hold_back: Annotated[
        bool, typer.Option("--hold-back", help="Show nothing before the answer is sure enough.")
    ] = False,
) -> None:
    """Stream an answer; the decision and the timings go to standard error."""
    from pointsman.cli.ask import Question, print_answer, rules_of, sampling_of

    rules = rules_of(specialist, tier, task_type, local_only, output_tokens)
    question = Question(read_prompt(text), rules, session, caller, hold_back=hold_back)
    sampling = sampling_of(max_tokens, temperature, seed)
    asyncio.run(print_answer(question, sampling, address, config, as_json=as_json))


@models.command()
def pull(config: Config = None) -> None:
    """Fetch and verify the encoder and all model files of specialists/."""
    from pointsman.host.check import pull_models
    from pointsman.host.logs import configure_logs
    from pointsman.host.progress import fetch_progress
    from pointsman.settings import load

    settings = load(config)
    configure_logs(settings.log)
    with fetch_progress() as progress:
        for line in pull_models(settings, progress):
            print(line)


@app.command()
def schema(
    folder: Annotated[Path, typer.Option(help="Where to write the JSON Schemas.")] = Path("docs/schema"),
) -> None:
    """Write the JSON Schemas of intent, specialist, rules, rollout, callers and policy files, for editors."""
    from pointsman.catalog.json_schema import write_schemas

    for path in write_schemas(folder):
        print(path)


def main() -> None:
    """Run the command line; errors are one line on standard error, and exit status 1 or 2."""
    try:
        app()
    except (Exception, BaseExceptionGroup) as raised:
        error = unwrap(raised)
        text = _explain(error)
        if text is None:
            raise
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


def _explain(error: BaseException) -> str | None:
    import grpc

    if isinstance(error, PointsmanError):
        return str(error)
    if isinstance(error, grpc.RpcError):
        from pointsman.client import explain

        return explain(error)
    if (
        isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason
    ):  # of an option; see read_prompt
        return f"what was given is not UTF-8: {os.fsencode(error.object)!r}"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("pointsman"):
        extra = "review" if error.name in {"matplotlib", "jinja2"} else "standard"
        return f"this command needs {error.name}; pip install 'pointsman[{extra}]'"
    return None
