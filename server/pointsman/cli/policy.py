"""`pointsman policy check | try`."""

from typing import Annotated

import typer

from pointsman.cli.options import Config, read_prompt

policy = typer.Typer(help="What may leave.", no_args_is_help=True)


@policy.command()
def check(config: Config = None) -> None:
    """Validate the policy, load what it needs, and print its kinds; exit 1 and name every problem if there is one."""
    from pointsman.catalog.policy_file import read_policy
    from pointsman.policy.detect import Detector
    from pointsman.settings import load

    paths = load(config).paths
    stated = read_policy(paths.policy)
    Detector(stated, paths.cache / "secret-rules")
    for kind in sorted(stated.kinds):
        print(f"{kind}: {stated.action(kind, '')}")
    for caller, actions in stated.callers.items():
        print(f"{caller}: {', '.join(f'{kind} {action}' for kind, action in sorted(actions.items()))}")


@policy.command(name="try")
def try_(
    text: Annotated[str, typer.Argument(help="`-` reads standard input.", show_default=False)] = "-",
    caller: Annotated[str, typer.Option(help="Whose actions hold.")] = "",
    config: Config = None,
) -> None:
    """Print what the policy finds in a text, and the text as it would be stored."""
    from pointsman.catalog.policy_file import read_policy
    from pointsman.policy.detect import Detector
    from pointsman.policy.gate import Gate
    from pointsman.settings import load

    paths = load(config).paths
    stated = read_policy(paths.policy)
    detector = Detector(stated, paths.cache / "secret-rules")
    read = read_prompt(text)
    for span in detector.find(read):
        print(f"{span.kind}: characters {span.start} to {span.end}, {stated.action(span.kind, caller)}")
    print(Gate(stated, detector).redacted(read, caller))
