"""What an address says of a call: which service, which model, which operation, and whether any.

Services are named as genai-prices names its providers, where it has the provider.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

# Host name or its end -> service. The longest match decides.
_HOSTS: Final = {
    "api.openai.com": "openai",
    "anthropic.com": "anthropic",
    "googleapis.com": "google",
    "amazonaws.com": "aws",
    "api.aws": "aws",
    "openai.azure.com": "azure",
    "azure-api.net": "azure",
    "cognitiveservices.azure.com": "azure",
    "services.ai.azure.com": "azure",
    "models.ai.azure.com": "azure",
    "groq.com": "groq",
    "mistral.ai": "mistral",
    "openrouter.ai": "openrouter",
    "deepseek.com": "deepseek",
    "cohere.com": "cohere",
    "cohere.ai": "cohere",
    "cerebras.ai": "cerebras",
    "x.ai": "x-ai",
    "together.xyz": "together",
    "together.ai": "together",
    "fireworks.ai": "fireworks",
    "perplexity.ai": "perplexity",
    "voyageai.com": "voyageai",
    "z.ai": "zai",
    "bigmodel.cn": "zhipuai",
    "moonshot.ai": "moonshotai",
    "moonshot.cn": "moonshotai",
    "minimax.io": "minimax",
    "minimaxi.com": "minimax",
    "novita.ai": "novita",
    "arcee.ai": "arcee",
    "avian.io": "avian",
    "baseten.co": "baseten",
    "databricks.com": "databricks",
    "databricks.net": "databricks",
    "githubcopilot.com": "github-copilot",
    "elevenlabs.io": "elevenlabs",
    "ai.cloud.ovh.net": "ovhcloud",
    "modal.run": "modal",
    "ollama.com": "ollama",
    "heroku.com": "heroku",
    "crusoecloud.com": "crusoe",
    "snowflakecomputing.com": "snowflake",
    "deepinfra.com": "deepinfra",
    "sambanova.ai": "sambanova",
    "nebius.com": "nebius",
    "nvidia.com": "nvidia",
    "huggingface.co": "huggingface",
}

SERVICES: Final = frozenset(_HOSTS.values())
"""Every service that an address can name."""

# A gateway carries its vendor in the path (/groq/openai/v1/...): the first such segment decides.
_GATEWAY_SEGMENTS: Final = {
    "openai": "openai",
    "anthropic": "anthropic",
    "google": "google",
    "google-vertex": "google",
    "google-ai-studio": "google",
    "vertex": "google",
    "gemini": "google",
    "aws-bedrock": "aws",
    "bedrock": "aws",
    "azure": "azure",
    "azure-openai": "azure",
    "groq": "groq",
    "mistral": "mistral",
    "openrouter": "openrouter",
    "deepseek": "deepseek",
    "cohere": "cohere",
    "cerebras": "cerebras",
    "xai": "x-ai",
    "x-ai": "x-ai",
    "grok": "x-ai",
    "together": "together",
    "fireworks": "fireworks",
    "perplexity": "perplexity",
    "perplexity-ai": "perplexity",
    "voyageai": "voyageai",
    "ollama": "ollama",
}
_OLLAMA_PORT: Final = 11434

_OPERATIONS: Final = tuple(
    (re.compile(pattern), operation)
    for pattern, operation in (
        (r"/responses/compact$", "compaction"),
        (r"/(chat/completions|messages|chat|responses(/[^/]+)?)$", "chat"),
        (r"/(converse(-stream)?|invoke(-with-response-stream)?)$", "chat"),
        (r":(rawPredict|streamRawPredict)$", "chat"),
        (r"/(embeddings|embed)$|:(embedContent|batchEmbedContents)$", "embeddings"),
        (r":(generateContent|streamGenerateContent)$|/interactions(/[^/]+)?$", "generate_content"),
        (r"/(completions|api/generate)$", "text_completion"),
        (r"/images/\w+$|:predict$", "image_generation"),
        (r"/audio/(transcriptions|translations)$", "transcription"),
        (r"/audio/speech$", "speech"),
        (r"/rerank$", "rerank"),
        (r"/ocr$", "ocr"),
    )
)

# Calls that no vendor bills by tokens: counting, session secrets.
_NEVER_BILLED: Final = re.compile(
    r"/(messages/count_tokens|count-tokens|input_tokens|tokenize|detokenize|tokens/count"
    r"|realtime/(client_secrets|sessions|transcription_sessions)|moderations)$|:countTokens$"
)
# Collections and their members: keeping, not calling. A stored batch output may still be replies.
_RESOURCES: Final = re.compile(
    r"/(files|vector_stores|uploads|batches|models|cachedContents|fine_tuning|containers"
    r"|assistants|conversations|evals|tunedModels|skills|api/tags|api/show|organization"
    r"|generation|credits)"
    r"(/[^/:]+)*$"
)
_GOOGLE_MODEL: Final = re.compile(r"/(?:models|tunedModels|endpoints)/([^/:]+):\w+$")
_BEDROCK_MODEL: Final = re.compile(r"/model/([^/]+)/(?:converse|invoke|count-tokens)")
_DEPLOYMENT: Final = re.compile(r"/deployments/([^/]+)/")


class Address(NamedTuple):
    """What an address says; None where it says nothing.

    ``model`` is the one in the path; ``model_decides`` where it names the model better than the
    reply does (Bedrock: the body has a bare name, the path the priced one).
    """

    service: str | None = None
    model: str | None = None
    model_decides: bool = False
    operation: str | None = None
    never_billed: str | None = None
    resource: str | None = None


NOWHERE: Final = Address()


@lru_cache(maxsize=1024)
def locate(url: str) -> Address:
    """Return what the address says. Raises nothing, whatever the text."""
    try:
        split = urlsplit(url if "//" in url else f"//{url}")
        host, port = (split.hostname or "").lower(), split.port
    except ValueError:
        return NOWHERE
    path = split.path.rstrip("/")
    google = _GOOGLE_MODEL.search(path)
    bedrock = _BEDROCK_MODEL.search(path)
    deployment = _DEPLOYMENT.search(path)
    model = google or bedrock or deployment
    service = _service(host, port, path)
    operation = next((name for pattern, name in _OPERATIONS if pattern.search(path)), None)
    never = _NEVER_BILLED.search(path)
    resource = _RESOURCES.search(path)
    return Address(
        service=service or ("aws" if bedrock else None),
        model=unquote(model[1]) if model else None,
        model_decides=bedrock is not None,
        operation=operation,
        never_billed=never[0].strip("/:") if never else None,
        resource=resource[1] if resource else None,
    )


def _service(host: str, port: int | None, path: str) -> str | None:
    labels = host.split(".")
    for start in range(len(labels) - 1):
        service = _HOSTS.get(".".join(labels[start:]))
        if service == "huggingface":
            return _hugging_face(path)
        if service is not None:
            return service
    for segment in path.split("/"):
        if segment.lower() in _GATEWAY_SEGMENTS:
            return _GATEWAY_SEGMENTS[segment.lower()]
    return "ollama" if port == _OLLAMA_PORT else None


def _hugging_face(path: str) -> str:
    """Hugging Face's router carries the provider first: /together/v1/..., but /v1/... chooses."""
    head = path.split("/")[1] if path.count("/") > 1 else ""
    return "huggingface" if head in ("", "v1", "models", "hf-inference") else f"huggingface_{head}"
