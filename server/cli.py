"""The command line. Each command is imported when it is called: ``--help`` takes no second."""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "serve": "Answer HTTP requests from a checkpoint.",
    "convert": "Bring a checkpoint into this server's own format.",
    "export": "Write a checkpoint for Hugging Face transformers.",
    "generate": "Continue prompts without a server.",
    "pretrain": "Train a small decoder from scratch.",
    "finetune": "Teach a decoder a task, from labelled texts.",
    "evaluate": "Perplexity, LAMBADA, multiple choice, beside the paper's figures.",
    "bench": "Measure the engine, the peers beside it, or a server.",
}


class LazyGroup(click.Group):
    """A group whose commands are ``server.commands.NAME:command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """None for a name that is not a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"server.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gpt2-server")
def main() -> None:
    """A text-generation inference server for the GPT-2 family."""
