"""Agents that are models: messages in, one streaming message out."""

__all__: list[str] = []
